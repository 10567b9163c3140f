"""Saving models for Keras 2."""
