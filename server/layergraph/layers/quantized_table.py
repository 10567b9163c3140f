"""The closed table of quantised layers: what a layer's class is where its policy quantises it."""

from __future__ import annotations

from collections.abc import Mapping

from layergraph.layers.quantized import QuantizedDense, QuantizedEinsumDense
from layergraph.layers.quantized_embeddings import QuantizedEmbedding, QuantizedReversibleEmbedding
from layergraph.layers.quantized_kernels import QuantizedLayer

#: Keras class name -> class.
QUANTIZED: Mapping[str, type[QuantizedLayer]] = {
    "Dense": QuantizedDense,
    "EinsumDense": QuantizedEinsumDense,
    "Embedding": QuantizedEmbedding,
    "ReversibleEmbedding": QuantizedReversibleEmbedding,
}
