"""Reads configs of any Keras generation as one canonical graph."""
