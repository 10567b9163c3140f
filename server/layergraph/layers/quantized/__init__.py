"""Layers that `model.quantize` of Keras 3 left."""
