"""Predict of all protocols: decoding of requests, queueing, and encoding of replies."""
