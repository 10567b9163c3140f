"""Predictions: single ones, in parts, prepared ones and streams."""
