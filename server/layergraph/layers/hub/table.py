"""The closed table of KerasHub's layers, by the names under which files refer to them."""

from __future__ import annotations

from collections.abc import Mapping

from layergraph.functional.layer import Layer
from layergraph.layers.hub import alibi, embeddings, f_net, masked_lm, positions, rotary
from layergraph.layers.hub.cached_attention import CachedMultiHeadAttention
from layergraph.layers.hub.decoder import TransformerDecoder
from layergraph.layers.hub.encoder import TransformerEncoder

#: Prefix of registered names. Files of KerasNLP, KerasHub's former name, have another one.
PACKAGE = "keras_hub>"

#: Registered name -> class.
LAYERS: Mapping[str, type[Layer]] = {
    f"{PACKAGE}{name}": layer
    for name, layer in {
        "CachedMultiHeadAttention": CachedMultiHeadAttention,
        "TransformerDecoder": TransformerDecoder,
        "TransformerEncoder": TransformerEncoder,
        **alibi.LAYERS,
        **embeddings.LAYERS,
        **f_net.LAYERS,
        **masked_lm.LAYERS,
        **positions.LAYERS,
        **rotary.LAYERS,
    }.items()
}
