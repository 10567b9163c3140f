"""Kernels in few bits: how Keras 3 keeps them, and what they are multiplied as.

A kernel is a matrix of rows, over which a product sums, and columns. Where inputs are quantised as well, integers are
multiplied, as float32, which holds their sums, and the product is divided by the scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from layergraph.config.options import option, optional
from layergraph.config.quantization import Quantization
from layergraph.errors import ConfigError, GraphError
from layergraph.functional.binding import Binder
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import DTypePolicy, any_dtype_policy, torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.storage_layout import StorageLayout
from layergraph.functional.tensor import Shape
from layergraph.functional.weights import Weights
from layergraph.initializers import initializer
from layergraph.layers.quantized.quantizers import (
    AbsMaxQuantizer,
    Int4QuantizationConfig,
    dequantized,
    float8,
    quantization_config,
    unpacked,
)

_ZEROS, _ONES = initializer("zeros"), initializer("ones")


def _quantized_policy(value: Any) -> DTypePolicy:
    """Validator: a policy that quantises."""
    policy = any_dtype_policy(value)
    if policy.quantization is None:
        raise ConfigError(f"dtype policy '{policy.name}' quantises nothing")
    return policy


class QuantizedLayer(Layer):
    """What layers whose policy quantises them have in common. Only such a file makes one."""

    dtype: Any = option(_quantized_policy, kw_only=True)
    quantization_config: Any = option(optional(quantization_config), default=None, kw_only=True)

    storage = StorageLayout(as_made=True)

    @property
    def keras_class_name(self) -> str:
        """The class's name in files is that of the layer that isn't quantised."""
        return type(self).__name__.removeprefix("Quantized")

    @property
    def quantization(self) -> Quantization:
        """How the kernel is kept."""
        found = self.dtype_policy.quantization
        assert found is not None
        return found

    @property
    def block(self) -> int | None:
        """So many rows share a scale; None where all do."""
        config = self.quantization_config
        return _block(config.block_size) if isinstance(config, Int4QuantizationConfig) else self.quantization.block

    @property
    def activation_quantizer(self) -> AbsMaxQuantizer | None:
        """What makes integers of inputs, too."""
        if self.quantization_config is not None:
            chosen: AbsMaxQuantizer | None = self.quantization_config.activation_quantizer
            return chosen
        return AbsMaxQuantizer() if self.quantization.mode == "int8" else None

    @property
    def goes_by_policy(self) -> bool:
        """Whether its policy says all."""
        plain = AbsMaxQuantizer().get_config() if self.quantization.mode == "int8" else None
        chosen = self.activation_quantizer
        return plain == (None if chosen is None else chosen.get_config())

    def add_array(self, name: str, shape: Shape, dtype: str | None = None) -> None:
        """An array that no training changes; scales are ones at first."""
        self.add_weight(name, shape, _ONES if "scale" in name else _ZEROS, trainable=False, dtype=dtype)

    def groups(self, rows: int) -> int:
        """How many scales there are for so many rows."""
        return 1 if self.block is None else math.ceil(rows / self.block)

    def bind_unscaled(self, binder: Binder) -> Any:
        """The weights for a call past Keras's quantised maths, which takes what is kept as it is."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Keras 3's config."""
        return {**super().get_config(), "dtype": self.dtype_policy.serialized()}


def _block(size: int | None) -> int | None:
    return None if size is None or size < 1 else size


class QuantizedKernel(QuantizedLayer):
    """A layer with one kernel that is quantised: Dense or EinsumDense.

    kernel_shape   of the kernel as it is multiplied
    rows, columns  of the matrix that it is kept as
    """

    #: Keras's name of the zeros of a calibrated kernel.
    zero_name = "kernel_zero"

    def add_kernel(
        self,
        shape: tuple[int, ...],
        size: tuple[int, int],
        scale_shape: tuple[int, ...],
        packed_shape: tuple[int, ...],
        add_bias: Callable[[], None],
    ) -> None:
        """Creates kernel, bias and scales in the order of files.

        `size` are rows and columns, `scale_shape` that of scales of int8, `packed_shape` the kernel's as int4 before
        Keras 3.14.
        """
        self.kernel_shape, self.size = shape, size
        self.packed_by_rows, self._packed_shape, self._scale_shape = False, packed_shape, scale_shape
        getattr(self, f"_add_{self.quantization.mode}")(add_bias)

    def _add_int8(self, add_bias: Callable[[], None]) -> None:
        self.add_array("kernel", self.kernel_shape, "int8")
        add_bias()
        self.add_array("kernel_scale", self._scale_shape)

    def _add_int4(self, add_bias: Callable[[], None]) -> None:
        rows, columns = self.size
        self.add_array("kernel", (rows, (columns + 1) // 2), "int8")
        add_bias()
        if self.block is None:
            self.add_array("kernel_scale", (columns,))
            return
        self.add_array("kernel_scale", (self.groups(rows), columns))
        self.add_array("kernel_zero", (self.groups(rows), columns), "int8")
        self.add_array("g_idx", (rows,), "float32")

    def _add_float8(self, add_bias: Callable[[], None]) -> None:
        self.add_float_kernel()
        add_bias()
        for what in ("inputs", "kernel", "outputs_grad"):
            options: dict[str, Any] = {"dtype": "float32", "autocast": False}
            self.add_weight(f"{what}_scale", (), _ONES, **options)
            self.add_weight(f"{what}_amax_history", (self.quantization.amax_history_length,), _ZEROS, **options)

    def _add_gptq(self, add_bias: Callable[[], None]) -> None:
        add_bias()
        self._add_calibrated()
        self.add_array("g_idx", self.size[:1], "float32")

    def _add_awq(self, add_bias: Callable[[], None]) -> None:
        add_bias()
        self._add_calibrated()
        self.add_array("awq_scales", self.size[:1])
        self.add_array("g_idx", self.size[:1], "float32")

    def _add_calibrated(self) -> None:
        rows, columns = self.size
        self.add_array("kernel", ((columns + 1) // 2 if self.quantization.bits == 4 else columns, rows), "uint8")
        self.add_array("kernel_scale", (columns, self.groups(rows)))
        self.add_array(self.zero_name, (columns, self.groups(rows)), "uint8")

    def add_float_kernel(self) -> None:
        """Creates the kernel of a layer that computes in float8, which keeps it whole."""
        raise NotImplementedError

    def fit_stored_shapes(self, shapes: list[tuple[int, ...]]) -> None:
        """Keras 3.11 to 3.13 pack two rows in a byte, and quantise inputs unless something else is said."""
        kernel, scale = self.own_weights[0], self.own_weights[-1]
        old = self.quantization.mode == "int4" and self.block is None and shapes
        if old and shapes[0] == self._packed_shape and shapes[0] != kernel.shape:
            self.packed_by_rows = True
            kernel.shape, scale.shape = self._packed_shape, self._scale_shape

    @property
    def activation_quantizer(self) -> AbsMaxQuantizer | None:
        """What makes integers of inputs, too."""
        if self.packed_by_rows and self.quantization_config is None:
            return AbsMaxQuantizer()
        whole = self.quantization.mode in ("int8", "int4") and self.block is None
        return super().activation_quantizer if whole else None

    # Maths.

    def bind(self, binder: Binder) -> Any:
        """The weights; in place of the kernel as it is kept the one that is multiplied, and by what to divide."""
        w = super().bind(binder)
        w.divisor, w.unscaled = None, False
        getattr(self, f"_bind_{self.quantization.mode}")(w)
        return w

    def bind_unscaled(self, binder: Binder) -> Any:
        """The weights, the kernel as it is kept. One that was calibrated Keras can't multiply so: it is scaled."""
        w = super().bind(binder)
        w.divisor, w.unscaled = None, True
        if self.quantization.mode == "int4":
            values = self._unpacked(w.kernel).reshape(self.kernel_shape)
            w.kernel = values.to(torch_dtype(self.compute_dtype))
        elif self.quantization.mode == "int8":
            w.kernel = w.kernel.to(torch_dtype(self.compute_dtype))
        elif self.quantization.mode != "float8":
            getattr(self, f"_bind_{self.quantization.mode}")(w)
        return w

    def _unpacked(self, stored: torch.Tensor) -> torch.Tensor:
        """The integers of four bits, (rows, columns) or, of Keras before 3.14, as they are multiplied."""
        if not self.packed_by_rows:
            return unpacked(stored, self.size[1], -1)
        axis = next(i for i, n in enumerate(self._packed_shape) if n != self.kernel_shape[i])
        return unpacked(stored, self.kernel_shape[axis], axis)

    def _floats(self, values: torch.Tensor) -> torch.Tensor:
        """Integers as floats; those to be multiplied with integers as float32."""
        return values.to(torch_dtype("float32" if self.activation_quantizer is not None else self.compute_dtype))

    def _bind_int8(self, w: Weights) -> None:
        w.kernel, w.divisor = self._floats(w.kernel), w.kernel_scale

    def _bind_int4(self, w: Weights) -> None:
        values = self._unpacked(w.kernel)
        if self.packed_by_rows:
            w.kernel, w.divisor = self._floats(values), w.kernel_scale
            return
        if self.block is not None:
            w.kernel = dequantized(values, w.kernel_scale, w.kernel_zero, w.g_idx, 0).reshape(self.kernel_shape)
            return
        w.kernel, w.divisor = self.scaled_later(self._floats(values), w.kernel_scale)

    def scaled_later(self, values: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A kernel (rows, columns) and by what its product is divided, from integers and the scale of each column."""
        return (values / scale.to(values.dtype)).reshape(self.kernel_shape), None

    def _bind_float8(self, w: Weights) -> None:
        w.kernel = float8(w.kernel, w.kernel_scale)

    def _bind_gptq(self, w: Weights) -> None:
        values = unpacked(w.kernel, self.size[1], 0) if self.quantization.bits == 4 else w.kernel
        kernel = dequantized(values, w.kernel_scale, getattr(w, self.zero_name), w.g_idx, -1).t()
        w.kernel = kernel.reshape(self.kernel_shape)

    def _bind_awq(self, w: Weights) -> None:
        self._bind_gptq(w)
        w.kernel = (w.kernel.reshape(self.size) / w.awq_scales[:, None]).reshape(self.kernel_shape)

    def multiplied(
        self,
        context: CallContext,
        w: Weights,
        x: torch.Tensor,
        multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        axes: tuple[int, ...],
        aligned: Callable[[torch.Tensor], torch.Tensor] = lambda scale: scale,
    ) -> torch.Tensor:
        """multiply(x, kernel). `axes` of x are summed over; `aligned` lays their scale out as the product."""
        kind = torch_dtype(self.compute_dtype)
        x = x.to(kind)
        if w.unscaled:
            return multiply(x, w.kernel)
        if self.quantization.mode == "float8":
            if context.training:
                raise GraphError(f"layer '{self.name}' ({self.keras_class_name}): can't be trained in float8")
            return multiply(float8(x, w.inputs_scale), w.kernel)
        quantizer = self.activation_quantizer
        if quantizer is None:
            y = multiply(x, w.kernel)
            return y if w.divisor is None else y / w.divisor
        integers, scale = quantizer(x.detach(), axes)
        scale = aligned(scale)
        y = multiply(integers, w.kernel).to(kind) / (scale if w.divisor is None else w.divisor * scale)
        if torch.is_grad_enabled() and x.requires_grad:
            # The gradient is that of the product with x itself, whatever was rounded.
            plain = multiply(x, w.kernel.to(kind))
            plain = plain if w.divisor is None else plain / w.divisor
            y = y + (plain - plain.detach())
        return y
