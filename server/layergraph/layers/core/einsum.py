"""Dense layers over any axes, in Einstein notation (keras.layers.EinsumDense)."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from layergraph.config.options import (
    Expected,
    list_of,
    option,
    optional,
    positive_int,
    text,
)
from layergraph.constraints import constraint
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.lora import LoraWeights
from layergraph.functional.storage_layout import StorageLayout
from layergraph.functional.tensor import History, Shape, Tensor
from layergraph.functional.weights import Weights
from layergraph.initializers import initializer
from layergraph.layers.activation_functions import Activation
from layergraph.layers.activations import activate, activation, adopt_activation
from layergraph.layers.lora import LoraLayer
from layergraph.regularizers import regularizer

#: Input, kernel and output, with an ellipsis before, after, or nowhere, as Keras supports them.
_FORMS = (
    (re.compile(r"([a-zA-Z]+),([a-zA-Z]+)->([a-zA-Z]+)"), ""),
    (re.compile(r"\.\.\.([a-zA-Z]+),([a-zA-Z]+)->\.\.\.([a-zA-Z]+)"), "left"),
    (re.compile(r"([a-zA-Z]{2,})\.\.\.,([a-zA-Z]+)->([a-zA-Z]+)\.\.\."), "right"),
)


class ShapedLayer(Layer):
    """A layer with an option `output_shape`, which is separate from the property of the same name."""

    @property
    def output_shape(self) -> Any:
        """Shape of the outputs of all calls. Raises AttributeError if they differ."""
        return super().output_shape

    @output_shape.setter
    def output_shape(self, value: tuple[int | None, ...] | None) -> None:
        self.partial_output_shape: tuple[int | None, ...] | None = value

    def option_value(self, name: str) -> Any:
        """Returns the option, not the property."""
        return self.partial_output_shape if name == "output_shape" else super().option_value(name)


def lengths(value: Any) -> tuple[int | None, ...]:
    """Validator: one length or several; None for unknown ones."""
    return list_of(optional(positive_int))(value if isinstance(value, (list, tuple)) else (value,))


@dataclass(frozen=True, slots=True)
class Equation:
    """A parsed equation: the letters of each operand, and the side of the ellipsis ('left', 'right' or '')."""

    inputs: str
    kernel: str
    outputs: str
    elided: str

    @property
    def text(self) -> str:
        """The equation in torch's syntax."""
        before, after = ("..." if self.elided == side else "" for side in ("left", "right"))
        return f"{before}{self.inputs}{after},{self.kernel}->{before}{self.outputs}{after}"


def equation(value: Any) -> str:
    """Validator: an equation of a form that Keras supports."""
    parsed = parse(text(value).replace(" ", ""))
    letters = parsed.inputs, parsed.kernel, parsed.outputs
    if any(len(set(operand)) < len(operand) for operand in letters):
        raise Expected("an equation in which no operand repeats a letter")
    for letter in parsed.outputs:
        if letter not in parsed.inputs + parsed.kernel:
            raise Expected(f"an equation whose output '{letter}' is in an operand")
    for letter in parsed.kernel:
        if letter not in parsed.inputs + parsed.outputs:
            raise Expected(f"an equation whose kernel axis '{letter}' is in the input or the output")
    return str(value)


def parse(value: str) -> Equation:
    """Parses an equation. Raises Expected."""
    for form, elided in _FORMS:
        if len(value) <= 256 and (found := form.fullmatch(value)):
            return Equation(found[1], found[2], found[3], elided)
    raise Expected("an equation [X],[Y]->[Z], ...[X],[Y]->...[Z] or [X]...,[Y]->[Z]...")


class EinsumDense(LoraLayer, ShapedLayer):
    """activation(einsum(equation, x, kernel) + bias) (keras.layers.EinsumDense).

    equation      such as 'abc,cd->abd'; the letters of the second operand are the kernel's axes
    output_shape  length of each output axis named in the equation, without the batch axis
    bias_axes     letters of the output axes that the bias has
    """

    equation: str = option(equation)
    output_shape: Any = option(lengths)
    activation: Activation = option(activation, default=None)
    bias_axes: str | None = option(optional(text), default=None)
    kernel_initializer: Any = option(initializer, default="glorot_uniform")
    bias_initializer: Any = option(initializer, default="zeros")
    kernel_regularizer: Any = option(regularizer, default=None)
    bias_regularizer: Any = option(regularizer, default=None)
    kernel_constraint: Any = option(constraint, default=None)
    bias_constraint: Any = option(constraint, default=None)

    storage = StorageLayout(null_regularizer=True)

    def setup(self) -> None:
        """Parses the equation, and registers an activation layer as a sublayer."""
        self.parsed = parse(self.equation.replace(" ", ""))
        adopt_activation(self, self.activation)

    def build(self, input_shape: Any) -> None:
        """Creates kernel and bias. Raises GraphError for incompatible shapes."""
        self._check_bias_axes()
        self.add_kernel_and_bias(input_shape)
        if isinstance(self.activation, Layer):
            outputs = tuple(self._full_output_shape(input_shape))
            self.activation.build_for((Tensor(outputs, self.compute_dtype, History(self, 0, 0)),))

    def add_kernel_and_bias(self, input_shape: Shape) -> None:
        """Creates kernel and bias for inputs of this shape."""
        self.add_whole_kernel(input_shape)
        self.add_bias(input_shape)

    def add_whole_kernel(self, input_shape: Shape) -> None:
        """Creates the kernel."""
        shape, sizes = self.kernel_shape_for(input_shape)
        axes = [i for i, letter in enumerate(self.parsed.kernel) if letter in sizes]
        self.add_weight_by_options(
            "kernel",
            shape,
            initializer=_with_axes(
                self.kernel_initializer, [i for i in range(len(self.parsed.kernel)) if i not in axes], axes
            ),
        )

    def kernel_shape_for(self, input_shape: Shape) -> tuple[list[int | None], dict[str, int | None]]:
        """Returns the kernel's shape and each output letter's length. Raises GraphError for incompatible shapes."""
        output_shape = self._full_output_shape(input_shape)
        first = len(input_shape) - len(self.parsed.inputs) if self.parsed.elided == "left" else 0
        sizes = dict(zip(self.parsed.outputs, output_shape[first:], strict=False))
        given = dict(zip(self.parsed.inputs, input_shape[first:], strict=False))
        for letter in set(given) & set(sizes):
            if sizes[letter] is not None and sizes[letter] != given[letter]:
                raise self._misfit(input_shape)
        return [sizes[letter] if letter in sizes else given[letter] for letter in self.parsed.kernel], sizes

    def add_bias(self, input_shape: Shape) -> None:
        """Creates the bias, if the layer has one."""
        if self.bias_axes is None:
            return
        _, sizes = self.kernel_shape_for(input_shape)
        named = self.parsed.outputs[min(self.parsed.outputs.find(letter) for letter in self.bias_axes) :]
        shape = [sizes[letter] if letter in self.bias_axes else 1 for letter in named]
        extra = len(input_shape) - len(self.parsed.inputs)
        self.add_weight_by_options("bias", shape if self.parsed.elided == "left" else [*shape, *[1] * extra])

    def _check_bias_axes(self) -> None:
        axes = self.bias_axes
        if axes is not None and (not axes or any(letter not in self.parsed.outputs for letter in axes)):
            raise GraphError(
                f"layer '{self.name}' (EinsumDense): bias_axes is '{axes}', expected letters of "
                f"the output, '{self.parsed.outputs}'"
            )

    def _full_output_shape(self, input_shape: Shape) -> list[int | None]:
        extra = len(input_shape) - len(self.parsed.inputs)
        shape = [input_shape[0], *(self.partial_output_shape or ())]
        if self.parsed.elided == "left":
            shape[1:1] = input_shape[1:extra]
        elif self.parsed.elided == "right":
            shape += input_shape[len(input_shape) - extra :]
        named = len(self.parsed.outputs) + (extra if self.parsed.elided else 0)
        if extra < 0 or (extra and not self.parsed.elided) or len(shape) != named:
            raise self._misfit(input_shape)
        return shape

    def _misfit(self, input_shape: Shape) -> GraphError:
        return GraphError(
            f"layer '{self.name}' (EinsumDense): got shape {tuple(input_shape)}, expected one compatible with equation "
            f"'{self.equation}' and output_shape {self.partial_output_shape}"
        )

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        """Computes activation(einsum(equation, inputs, kernel) + bias)."""
        if isinstance(w, LoraWeights) and self.parsed.kernel[-1] in self.parsed.outputs:
            inputs = inputs.to(w.base.dtype)
            outputs = torch.einsum(self.parsed.text, inputs, w.base) + w.scale * self.adapted(inputs, w.a, w.b)
        else:
            outputs = torch.einsum(self.parsed.text, inputs.to(w.kernel.dtype), w.kernel)
        if self.bias_axes is not None:
            outputs = outputs + w.bias
        return activate(self.activation, context, w, outputs)

    def adapted(self, inputs: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Computes einsum(equation, inputs, a @ b), a first."""
        last, outputs = self.parsed.kernel[-1], self.parsed.text.partition("->")[2]
        # With the letter of the kernel's last axis, which `a` has of the length of the rank.
        ranked = torch.einsum(self.parsed.text, inputs, a)
        other = next(letter for letter in string.ascii_letters if letter not in self.parsed.text)
        return torch.einsum(f"{outputs},{last}{other}->{outputs.replace(last, other)}", ranked, b)


def _with_axes(given: Any, inputs: Sequence[int], outputs: Sequence[int]) -> Any:
    """Sets the input and output axes of an initializer that depends on them, from the equation."""
    if "input_axes" not in given._options or given.input_axes is not None or given.output_axes is not None:
        return given
    return type(given).from_config({**given.get_config(), "input_axes": list(inputs), "output_axes": list(outputs)})


LAYERS: dict[str, type[Layer]] = {"EinsumDense": EinsumDense}
