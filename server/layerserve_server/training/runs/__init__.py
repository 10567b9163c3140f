"""Runs on the server: the registry and queue of runs, and the contents of their folders."""
