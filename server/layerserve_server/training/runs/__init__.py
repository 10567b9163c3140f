"""Runs, as the server keeps them."""
