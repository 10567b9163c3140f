"""The closed table of quantized layers: the class of a layer whose policy quantizes it."""

from __future__ import annotations

from collections.abc import Mapping

from layergraph.layers.quantized.embeddings import QuantizedEmbedding, QuantizedReversibleEmbedding
from layergraph.layers.quantized.equations import QuantizedDense, QuantizedEinsumDense
from layergraph.layers.quantized.kernels import QuantizedLayer

#: Keras class name -> class.
QUANTIZED: Mapping[str, type[QuantizedLayer]] = {
    "Dense": QuantizedDense,
    "EinsumDense": QuantizedEinsumDense,
    "Embedding": QuantizedEmbedding,
    "ReversibleEmbedding": QuantizedReversibleEmbedding,
}
