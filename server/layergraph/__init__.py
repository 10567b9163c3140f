"""Keras graphs on torch."""
