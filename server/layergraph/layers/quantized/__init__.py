"""Layers quantized by Keras 3's `model.quantize`."""
