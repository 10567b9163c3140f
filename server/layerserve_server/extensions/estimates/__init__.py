"""Estimates of runs before their data is sent: problems, steps, memory, disk space and time."""
