"""Sweeps: searches over the settings of training."""
