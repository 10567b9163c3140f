"""The closed table of operations that a file may name."""

from __future__ import annotations

from collections.abc import Mapping

from layergraph.functional.layer import Layer
from layergraph.layers.table import merged
from layergraph.ops import (
    arrangement,
    ctc,
    decompositions,
    diagonals,
    elementwise,
    image_filters,
    image_transforms,
    images,
    indexing,
    joining,
    linear_algebra,
    losses,
    neural,
    numbers,
    ranges,
    reductions,
    scattering,
    searching,
    shape_values,
    shapes,
    spectral,
    statistics,
    windows,
)
from layergraph.ops.tensorflow import arrays as tensorflow_arrays
from layergraph.ops.tensorflow import images as tensorflow_images
from layergraph.ops.tensorflow import matrices as tensorflow_matrices
from layergraph.ops.tensorflow import numbers as tensorflow_numbers
from layergraph.ops.tensorflow import signal as tensorflow_signal
from layergraph.ops.tensorflow import windows as tensorflow_windows

#: Keras class name -> class.
OPERATIONS: Mapping[str, type[Layer]] = merged(
    [
        elementwise.OPERATIONS,
        numbers.OPERATIONS,
        reductions.OPERATIONS,
        statistics.OPERATIONS,
        searching.OPERATIONS,
        shape_values.OPERATIONS,
        ranges.OPERATIONS,
        shapes.OPERATIONS,
        joining.OPERATIONS,
        indexing.OPERATIONS,
        scattering.OPERATIONS,
        arrangement.OPERATIONS,
        diagonals.OPERATIONS,
        linear_algebra.OPERATIONS,
        decompositions.OPERATIONS,
        spectral.OPERATIONS,
        windows.OPERATIONS,
        neural.OPERATIONS,
        losses.OPERATIONS,
        ctc.OPERATIONS,
        images.OPERATIONS,
        image_filters.OPERATIONS,
        image_transforms.OPERATIONS,
        tensorflow_arrays.OPERATIONS,
        tensorflow_images.OPERATIONS,
        tensorflow_matrices.OPERATIONS,
        tensorflow_numbers.OPERATIONS,
        tensorflow_signal.OPERATIONS,
        tensorflow_windows.OPERATIONS,
    ]
)

for _name, _known in OPERATIONS.items():
    # The prefix distinguishes TensorFlow's operations from Keras's of the same name, in files, too.
    if _name.startswith("tf>"):
        _known.__name__ = _name
