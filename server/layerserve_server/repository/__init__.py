"""Versions on disk: finding, loading, swapping, labelling, publishing."""
