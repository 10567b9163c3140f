"""Converts arrays in the layouts of older Keras versions to Keras 3's: Keras 1's twelve arrays of an LSTM, Theano's
flipped kernels, cuDNN's matrices.

The formulas are those of Keras 2.3 (keras.engine.saving.preprocess_weights_for_loading).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from layergraph.archive import StoredArray
from layergraph.functional.layer import Layer
from layergraph.functional.weight import Weight

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"


@dataclass(frozen=True, slots=True)
class Derived:
    """An array that is computed from stored ones when it is read.

    slot   computes an optimizer's slot of this weight from those of the parts; None if `compute` does
    """

    parts: tuple[StoredArray, ...]
    shape: tuple[int, ...]
    compute: Callable[..., Array]
    slot: Callable[..., Array] | None = None

    @property
    def name(self) -> str:
        """Name of the first part."""
        return self.parts[0].name

    @property
    def dtype(self) -> str:
        """Dtype of the first part."""
        return self.parts[0].dtype

    @property
    def nbytes(self) -> int:
        """Total bytes of the parts in memory."""
        return sum(part.nbytes for part in self.parts)

    def read(self) -> Array:
        """Returns the values. Raises CorruptFileError if a part can't be read."""
        values = self.compute(*(part.read() for part in self.parts))
        # NumPy considers a flipped axis of length 1 contiguous, but torch refuses its negative stride.
        return values.copy() if min(values.strides, default=0) < 0 else np.ascontiguousarray(values)


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a file: Keras 1 (`keras1`) or Keras 3 (`keras3`); whether Theano wrote it (`mirrored`), and whether
    the optimizer's state is in the order of the weights' names (`sorts_state`), as up to Keras 2.0.5.
    """

    keras1: bool = False
    keras3: bool = False
    mirrored: bool = False
    sorts_state: bool = False


def origin_of(keras_version: str | None, backend: str | None) -> Origin:
    """The origin by a file's metadata. Keras 1 doesn't store its backend, which the names of weights reveal."""
    version = (keras_version or "").strip()
    keras1 = version.startswith(("0.", "1."))
    sorts_state = keras1 or version in _SORTING
    return Origin(keras1, version.startswith("3."), backend == "theano", sorts_state)


_SORTING = frozenset(f"2.0.{patch}" for patch in range(6))


def modern(
    weights: Sequence[Weight],
    owners: Mapping[Weight, Layer],
    arrays: Sequence[StoredArray],
    origin: Origin,
) -> list[StoredArray]:
    """The arrays for `weights`, one each, in Keras 3's layout; unchanged if none of the conversions applies."""
    result: list[StoredArray] = []
    start = 0
    for layer, run in itertools.groupby(weights, key=lambda weight: owners[weight]):
        own = list(run)
        # Only the next arrays are looked at: copying all that are left would make the time quadratic.
        following = list(arrays[start : start + _MOST_ARRAYS + len(own)])
        count = _stored_count(layer, own, following, origin)
        result += _modern(layer, own, following[:count], origin)
        start += count
    return result + list(arrays[start:])


def _stored_count(layer: Layer, weights: Sequence[Weight], arrays: Sequence[StoredArray], origin: Origin) -> int:
    """Number of arrays that hold these weights: in Keras 1, three per gate unless the gates were fused."""
    gates = _GATES.get(type(layer).__name__)
    if not origin.keras1 or gates is None or len(weights) != 3 or len(arrays) < 3 * gates:
        return len(weights)
    return 3 * gates if arrays[0].shape != weights[0].shape else 3


def _modern(layer: Layer, weights: Sequence[Weight], arrays: list[StoredArray], origin: Origin) -> list[StoredArray]:
    kind = type(layer).__name__
    if kind in _GATES and len(arrays) == 3 * _GATES[kind] and origin.keras1:
        arrays = _joined(arrays, _GATES[kind], outputs_first=_channels_first(layer))
    if kind in ("LSTM", "GRU"):
        return from_cudnn(layer, weights, arrays)
    change = _KERNELS.get(kind)
    if change is None:
        return arrays
    return [
        change(layer, weight, array, origin) if "kernel" in weight.name else array
        for weight, array in zip(weights, arrays, strict=False)
    ] + arrays[len(weights) :]


# Recurrent layers.

#: Arrays of an LSTM in Keras 1, three per gate: the most that a layer has there.
_MOST_ARRAYS = 12
_GATES = {"LSTM": 4, "GRU": 3, "ConvLSTM2D": 4}
#: Positions in Keras 1's files of the gates in today's order: an LSTM's i, c, f, o; a GRU's z, r, h.
_KERAS1_GATES = {4: (0, 2, 1, 3), 3: (0, 1, 2)}


def _joined(arrays: Sequence[StoredArray], gates: int, *, outputs_first: bool) -> list[StoredArray]:
    """Concatenates the arrays of each gate into kernel, recurrent kernel and bias."""
    result: list[StoredArray] = []
    for index in range(3):
        parts = tuple(arrays[3 * gate + index] for gate in _KERAS1_GATES[gates])
        shape = parts[0].shape
        # Convolution kernels with channels first have the outputs on axis 0; `_convolution` transposes them.
        axis = 0 if outputs_first else -1
        if any(part.shape != shape for part in parts) or not shape:
            return list(arrays)
        width = list(shape)
        width[axis] *= gates
        result.append(Derived(parts, tuple(width), lambda *p, axis=axis: np.concatenate(p, axis)))
    return result


def from_cudnn(layer: Layer, weights: Sequence[Weight], arrays: list[StoredArray]) -> list[StoredArray]:
    """Converts cuDNN's layout of an LSTM or GRU, which is recognised by its two biases per gate, to the ordinary one.

    Each gate's input kernel is stored in C order but read in Fortran order; its recurrent kernel is transposed.
    """
    gates = _GATES[type(layer).__name__]
    if len(arrays) != 3 or len(arrays[1].shape) != 2 or arrays[2].shape != (2 * gates * arrays[1].shape[0],):
        return arrays
    kernel, recurrent, bias = arrays

    def input_kernel(values: Array) -> Array:
        return np.hstack([gate.T.reshape(gate.shape, order="F") for gate in np.hsplit(values, gates)])

    def recurrent_kernel(values: Array) -> Array:
        return np.hstack([gate.T for gate in np.hsplit(values, gates)])

    units = recurrent.shape[0]
    if kernel.shape != weights[0].shape or recurrent.shape != weights[1].shape:
        return arrays
    # Both summands have the gradient of the sum, so each has its slots.
    summed = Derived(
        (bias,),
        (gates * units,),
        lambda values: values.reshape(2, -1).sum(0),
        lambda values: values.reshape(2, -1).mean(0),
    )
    rows = Derived((bias,), (2, gates * units), lambda values: values.reshape(2, -1))
    return [
        Derived((kernel,), kernel.shape, input_kernel),
        Derived((recurrent,), recurrent.shape, recurrent_kernel),
        summed if gates == _GATES["LSTM"] else rows,
    ]


# Convolutions.


def _convolution(layer: Layer, weight: Weight, array: StoredArray, origin: Origin) -> StoredArray:
    """A kernel with Keras 3's order of axes, flipped if Theano wrote it."""
    if origin.keras1:
        array = _keras1_kernel(layer, weight, array)
    rank = len(weight.shape) - 2
    mirrored = origin.mirrored or (origin.keras1 and _named_by_theano(array.name))
    if mirrored and type(layer).__name__ in _MIRRORED and len(array.shape) == len(weight.shape):
        mirror = (slice(None, None, -1),) * rank
        array = Derived((array,), array.shape, lambda values: values[mirror])
    # Early releases of Keras 2 wrote (outputs, inputs, rows, columns) for channels first.
    return array if array.shape == weight.shape else _transposed(array, (3, 2, 0, 1), weight.shape)


def _named_by_theano(name: str) -> bool:
    """Whether a weight's name is Theano's: `kernel`, without TensorFlow's `:0`. Weights without a name are numbered."""
    last = name.rpartition("/")[2]
    return ":" not in last and not last.startswith("param_")


def _keras1_kernel(layer: Layer, weight: Weight, array: StoredArray) -> StoredArray:
    if type(layer).__name__ == "Conv1D" and len(array.shape) == 4:
        if array.shape[1] != 1 or array.shape[0] != weight.shape[0]:
            # Keras 1.1: (outputs, inputs, length, 1)
            array = _transposed(array, (2, 3, 1, 0), (array.shape[2], array.shape[3], array.shape[1], array.shape[0]))
        if array.shape[1] == 1:
            return Derived((array,), (array.shape[0], *array.shape[2:]), lambda values: values[:, 0])
        return array
    axes = _KERAS1_AXES.get(len(array.shape), ())
    if type(layer).__name__ == "Conv2DTranspose":
        axes = (2, 3, 0, 1) if _channels_first(layer) else (0, 1, 3, 2)
    elif not _channels_first(layer):
        return array
    return _transposed(array, axes, weight.shape)


#: (outputs, inputs, *spatial) -> (*spatial, inputs, outputs), by number of axes.
_KERAS1_AXES = {4: (2, 3, 1, 0), 5: (2, 3, 4, 1, 0)}


def _channels_first(layer: Layer) -> bool:
    return getattr(layer, "data_format", None) == "channels_first"


def _transposed(array: StoredArray, axes: Sequence[int], wanted: tuple[int, ...]) -> StoredArray:
    """The transposed array if its shape is `wanted`, else the array itself."""
    if len(axes) != len(array.shape) or tuple(array.shape[axis] for axis in axes) != wanted:
        return array
    return Derived((array,), wanted, lambda values: values.transpose(axes))


#: Layers whose kernels Theano flips (true convolution instead of cross-correlation).
_MIRRORED = ("Conv1D", "Conv2D", "Conv3D", "Conv2DTranspose", "ConvLSTM2D")
_KERNELS: Mapping[str, Callable[[Layer, Weight, StoredArray, Origin], StoredArray]] = dict.fromkeys(
    (*_MIRRORED, "SeparableConv2D"), _convolution
)
