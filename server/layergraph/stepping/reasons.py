"""Why layers look at other timesteps, in words."""

from __future__ import annotations

from layergraph.functional.layer import Layer
from layergraph.layers.attention.attention import AdditiveAttention, Attention
from layergraph.layers.attention.multi_head import GroupQueryAttention, MultiHeadAttention
from layergraph.layers.convolutional.convolution import WindowedConvolution
from layergraph.layers.merging import Dot
from layergraph.layers.normalization.batch import BatchNormalization
from layergraph.layers.normalization.spectral import SpectralNormalization
from layergraph.layers.normalization.statistics import (
    GroupNormalization,
    LayerNormalization,
    RMSNormalization,
    UnitNormalization,
)
from layergraph.layers.reshaping import (
    Cropping1D,
    Flatten,
    Permute,
    RepeatVector,
    Reshape,
    ZeroPadding1D,
)
from layergraph.layers.rnn.recurrent import Recurrent
from layergraph.layers.spatial import SpatialLayer
from layergraph.layers.up_sampling import UpSampling1D
from layergraph.layers.wrappers import Bidirectional, TimeDistributed

_NORMALIZATIONS = (
    BatchNormalization,
    GroupNormalization,
    LayerNormalization,
    RMSNormalization,
    SpectralNormalization,
    UnitNormalization,
)
#: The first class that a layer is an instance of decides.
_REASONS: tuple[tuple[type[Layer] | tuple[type[Layer], ...], str], ...] = (
    (Bidirectional, "reads the timesteps in both directions"),
    ((Attention, AdditiveAttention, MultiHeadAttention, GroupQueryAttention), "attends to all timesteps"),
    (_NORMALIZATIONS, "normalizes over the timesteps"),
    (Flatten, "flattens the timesteps"),
    (Reshape, "reshapes the timesteps"),
    (Permute, "moves the timesteps to another axis"),
    (RepeatVector, "makes a fixed number of timesteps"),
    ((Cropping1D, ZeroPadding1D, UpSampling1D), "changes the number of timesteps"),
    (Dot, "multiplies timesteps with one another"),
    (WindowedConvolution, "is a convolution over timesteps that isn't causal"),
)


def reason_of(layer: Layer, *, makes_timesteps: bool = False) -> str:
    """Why a layer can't be stepped.

    makes_timesteps   whether it makes a sequence of something else, rather than of a sequence
    """
    for kind, reason in _REASONS:
        if isinstance(layer, kind):
            return reason
    if "Pooling" in type(layer).__name__:
        return "pools over the timesteps"
    if isinstance(layer, SpatialLayer):
        return "looks at several timesteps"
    inner = next((inner for inner in layer.walk_layers() if inner is not layer and isinstance(inner, Recurrent)), None)
    if inner is not None and isinstance(layer, TimeDistributed):
        return f"runs the recurrent layer '{inner.name}' anew in each timestep"
    if inner is not None:
        return f"has the recurrent layer '{inner.name}' inside, whose states it doesn't give"
    return "makes the timesteps itself" if makes_timesteps else "looks at other timesteps, or at their positions"
