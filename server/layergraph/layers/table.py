"""The closed table of layer classes that a file may name: configs never cause imports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from layergraph.functional.input import InputLayer
from layergraph.functional.layer import Layer
from layergraph.layers import activations, applications, keras1, merging, pooling, regularization, reshaping, wrappers
from layergraph.layers.attention import attention
from layergraph.layers.convolutional import convolution as convolutional
from layergraph.layers.convolutional import depthwise as convolutional_depthwise
from layergraph.layers.convolutional import locally_connected
from layergraph.layers.convolutional import transpose as convolutional_transpose
from layergraph.layers.core import basic as core
from layergraph.layers.core import einsum
from layergraph.layers.core import reversible_embedding as embedding_reversible
from layergraph.layers.inner_layers import CLASSES
from layergraph.layers.normalization import statistics as normalization
from layergraph.layers.preprocessing import (
    audio,
    augmentation,
    augmentation_inference,
    categorical,
    image_contrast,
    images,
    lookup,
    pipeline,
    text_vectorization,
)
from layergraph.layers.rnn import convolutional as recurrent_convolutional
from layergraph.layers.rnn import recurrent


def merged(families: Iterable[Mapping[str, type[Layer]]]) -> dict[str, type[Layer]]:
    """Merges the families' tables. Raises ValueError if two of them contain the same class name."""
    table: dict[str, type[Layer]] = {}
    for family in families:
        twice = sorted(table.keys() & family.keys())
        if twice:
            raise ValueError(f"layers {twice} are in the table twice")
        table.update(family)
    return table


#: Keras class name -> class.
LAYERS: Mapping[str, type[Layer]] = merged(
    [
        {"InputLayer": InputLayer},
        core.LAYERS,
        activations.LAYERS,
        regularization.LAYERS,
        merging.LAYERS,
        recurrent.LAYERS,
        recurrent_convolutional.LAYERS,
        wrappers.LAYERS,
        convolutional.LAYERS,
        convolutional_depthwise.LAYERS,
        convolutional_transpose.LAYERS,
        locally_connected.LAYERS,
        pooling.LAYERS,
        reshaping.LAYERS,
        normalization.LAYERS,
        einsum.LAYERS,
        attention.LAYERS,
        images.LAYERS,
        augmentation.LAYERS,
        augmentation_inference.LAYERS,
        audio.LAYERS,
        image_contrast.LAYERS,
        pipeline.LAYERS,
        embedding_reversible.LAYERS,
        categorical.LAYERS,
        lookup.LAYERS,
        text_vectorization.LAYERS,
        applications.LAYERS,
        keras1.LAYERS,
    ]
)
CLASSES.update(LAYERS)
