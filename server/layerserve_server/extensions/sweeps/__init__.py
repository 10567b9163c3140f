"""Sweeps: several runs with settings out of a search space, of which the best is published."""
