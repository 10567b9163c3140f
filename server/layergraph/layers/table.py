"""The closed table of layers: what a file may name. A config never leads to an import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from layergraph.functional.input import InputLayer
from layergraph.functional.layer import Layer
from layergraph.layers import (
    activations,
    applications,
    attention,
    audio,
    augmentation,
    augmentation_inference,
    categorical,
    convolutional,
    convolutional_depthwise,
    convolutional_transpose,
    core,
    einsum,
    embedding_reversible,
    image_contrast,
    images,
    keras1,
    locally_connected,
    lookup,
    merging,
    normalization,
    pipeline,
    pooling,
    recurrent,
    recurrent_convolutional,
    regularization,
    reshaping,
    text_vectorization,
    wrappers,
)


def merged(families: Iterable[Mapping[str, type[Layer]]]) -> dict[str, type[Layer]]:
    """One table of all families. Raises ValueError if two of them have a class of one name."""
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
