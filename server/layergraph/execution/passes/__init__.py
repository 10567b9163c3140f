"""Rewrites of a plan that keep its results."""
