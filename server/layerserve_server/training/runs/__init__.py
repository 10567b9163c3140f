"""Runs on the server: their registry, their queue, and how each begins, is steered and ends."""
