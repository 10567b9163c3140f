"""Layers quantized by Keras 3's `model.quantize`.

Way in: `table.QUANTIZED`, the classes for layers with a quantized dtype policy. `kernels` and `embeddings` have the
layers, `quantizers` the formulas, `stored` how files have them.
"""
