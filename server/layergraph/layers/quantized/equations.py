"""Dense and EinsumDense with kernels quantized by Keras 3's `model.quantize`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.tensor import Shape
from layergraph.functional.weights import Weights
from layergraph.layers.activations import activate
from layergraph.layers.core.basic import Dense
from layergraph.layers.core.einsum import EinsumDense, Equation
from layergraph.layers.quantized.kernels import QuantizedKernel


class QuantizedDense(QuantizedKernel, Dense):
    """A Dense with a quantized kernel."""

    def add_kernel_and_bias(self, features: int | None) -> None:
        """Creates kernel, bias and scales. Raises GraphError if the number of features is unknown."""
        if features is None:
            raise GraphError(f"layer '{self.name}' (Dense): expected a known length of the inputs' last axis")
        size, packed = (features, self.units), ((features + 1) // 2, self.units)
        self.add_kernel(size, size, (self.units,), packed, self.add_bias)

    def add_float_kernel(self) -> None:
        """Creates the kernel of an ordinary Dense."""
        self.add_whole_kernel(self.kernel_shape[0])

    def scaled_later(self, values: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Keeps scale and product separate: both have the columns last."""
        return values, scale

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes activation(x @ kernel + bias)."""
        y = self.multiplied(context, w, x, torch.matmul, (-1,))
        if (lora := self.lora) is not None:
            y = (y + lora.scale * (x.to(y.dtype) @ w.lora_kernel_a @ w.lora_kernel_b)).to(y.dtype)
        return activate(self.activation, context, w, y + _bias(self, w) if self.use_bias else y)


class QuantizedEinsumDense(QuantizedKernel, EinsumDense):
    """An EinsumDense with a quantized kernel."""

    storage = replace(QuantizedKernel.storage, null_regularizer=True)
    zero_name = "zero_point"

    def add_kernel_and_bias(self, input_shape: Shape) -> None:
        """Creates kernel, bias and scales. Raises GraphError if an axis of the kernel has an unknown length."""
        shape, _ = self.kernel_shape_for(input_shape)
        self._input_shape = input_shape
        self.inputs, kernel = quantized_axes(self.parsed)
        if any(length is None for length in shape):
            raise GraphError(f"layer '{self.name}' (EinsumDense): expected known lengths of all axes of the kernel")
        known = tuple(int(length) for length in shape if length is not None)
        packed = list(known)
        axis = kernel.summed[0] if kernel.summed else 0
        packed[axis] = (packed[axis] + 1) // 2
        scale = kernel.laid_out(np.empty([1 if i in kernel.summed else n for i, n in enumerate(known)])).shape
        self.add_kernel(
            known, self._size(known, kernel.summed), scale, tuple(packed), lambda: self.add_bias(input_shape)
        )

    def _size(self, shape: tuple[int, ...], summed: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of the kernel as a matrix. Raises GraphError for a shape that can't be calibrated."""
        if self.quantization.mode not in ("gptq", "awq"):
            rows = int(np.prod([n for i, n in enumerate(shape) if i in summed], dtype=np.int64))
            return rows, int(np.prod(shape, dtype=np.int64)) // rows
        # Keras takes the longest axis for the model's features, and the other two for its heads.
        if len(shape) not in (2, 3):
            raise GraphError(f"layer '{self.name}' (EinsumDense): kernel has shape {shape}, expected 2 or 3 axes")
        if len(shape) == 3 and shape.index(max(shape)) > 0:
            return shape[0] * shape[1], shape[2]
        return shape[0], int(np.prod(shape[1:]))

    def add_float_kernel(self) -> None:
        """Creates the kernel of an ordinary EinsumDense."""
        self.add_whole_kernel(self._input_shape)

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        """Computes activation(einsum(equation, inputs, kernel) + bias)."""
        y = self.multiplied(
            context,
            w,
            inputs,
            lambda x, kernel: torch.einsum(self.parsed.text, x, kernel),
            tuple(self.inputs.summed),
            self.inputs.laid_out,
        )
        if (lora := self.lora) is not None:
            added = self.adapted(inputs.to(y.dtype), w.lora_kernel_a, w.lora_kernel_b)
            y = (y + lora.scale * added).to(y.dtype)
        return activate(self.activation, context, w, y if self.bias_axes is None else y + _bias(self, w))


def _bias(layer: QuantizedKernel, w: Weights) -> torch.Tensor:
    """The bias; Keras rounds it to bfloat16 for float8 products."""
    bias: torch.Tensor = w.bias
    rounded = layer.quantization.mode == "float8" and layer.compute_dtype == "float32" and not w.unscaled
    return bias.to(torch.bfloat16).to(bias.dtype) if rounded else bias


@dataclass(frozen=True, slots=True)
class OperandAxes:
    """Summed axes of an operand of an equation, and the permutation of its scale to the output's layout."""

    summed: list[int]
    order: list[int]
    inserted: list[int]
    dropped: list[int]

    def laid_out(self, scale: Any) -> Any:
        """Returns the scale, a NumPy array or a tensor, in the output's layout."""
        scale = scale.transpose(self.order) if isinstance(scale, np.ndarray) else scale.permute(self.order)
        shape = list(scale.shape)
        for axis in sorted(self.inserted):
            shape.insert(axis, 1)
        for axis in sorted(self.dropped, reverse=True):
            if shape[axis] == 1:
                shape.pop(axis)
        return scale.reshape(shape)


def quantized_axes(equation: Equation) -> tuple[OperandAxes, OperandAxes]:
    """Returns the axes of inputs and kernel (Keras's _analyze_quantization_info, which doesn't support ellipses)."""
    outputs, operands = equation.outputs, (equation.inputs, equation.kernel)
    summed = [[i for i, letter in enumerate(operand) if letter not in outputs] for operand in operands]
    inserted = [[i for i, letter in enumerate(outputs) if letter not in operand] for operand in operands]
    order = [[operand.index(letter) for letter in outputs if letter in operand] for operand in operands]
    dropped: list[list[int]] = [[], []]
    # Keras puts a summed axis where one is missing, otherwise where it put the last one, and drops it afterwards.
    place = outputs.find(equation.kernel[-1])
    for which in (0, 1):
        for axis in summed[which]:
            if inserted[which]:
                place = inserted[which].pop(0)
            else:
                dropped[which].append(axis)
            order[which].insert(place, axis)
    return OperandAxes(summed[0], order[0], inserted[0], dropped[0]), OperandAxes(
        summed[1], order[1], inserted[1], dropped[1]
    )
