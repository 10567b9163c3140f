"""Layers of KerasHub, of which its backbones are made."""

from layergraph.layers.hub.alibi import AlibiBias
from layergraph.layers.hub.cached_attention import CachedMultiHeadAttention
from layergraph.layers.hub.decoder import TransformerDecoder
from layergraph.layers.hub.embeddings import ReversibleEmbedding, TokenAndPositionEmbedding
from layergraph.layers.hub.encoder import TransformerEncoder
from layergraph.layers.hub.f_net import FNetEncoder
from layergraph.layers.hub.masked_lm import MaskedLMHead
from layergraph.layers.hub.positions import PositionEmbedding, SinePositionEncoding
from layergraph.layers.hub.rotary import RotaryEmbedding

__all__ = [
    "AlibiBias",
    "CachedMultiHeadAttention",
    "FNetEncoder",
    "MaskedLMHead",
    "PositionEmbedding",
    "ReversibleEmbedding",
    "RotaryEmbedding",
    "SinePositionEncoding",
    "TokenAndPositionEmbedding",
    "TransformerDecoder",
    "TransformerEncoder",
]
