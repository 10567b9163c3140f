"""Quantized kernels: how Keras 3 stores them and multiplies with them.

A kernel is stored as a matrix with rows, which a product sums over, and columns. If inputs are quantized as well, the
product is one of integers, computed in float32, which represents their sums, and is divided by the scales.
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
from layergraph.functional.storage_layout import StorageLayout
from layergraph.functional.tensor import Shape
from layergraph.functional.weights import Weights
from layergraph.initializers import initializer
from layergraph.layers.lora import LoraLayer
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
    """Validator: a dtype policy with quantization."""
    policy = any_dtype_policy(value)
    if policy.quantization is None:
        raise ConfigError(f"dtype policy '{policy.name}' has no quantization, expected one that has")
    return policy


class QuantizedLayer(LoraLayer):
    """Base of layers whose dtype policy quantizes them; created from files only.

    LoRA weights aren't merged into integers: what they add is computed from the layer's inputs, which aren't rounded.
    """

    dtype: Any = option(_quantized_policy, kw_only=True)
    quantization_config: Any = option(optional(quantization_config), default=None, kw_only=True)

    storage = StorageLayout(as_made=True)
    merges_lora = False

    @property
    def keras_class_name(self) -> str:
        """Class name in files: that of the layer without quantization."""
        return type(self).__name__.removeprefix("Quantized")

    @property
    def quantization(self) -> Quantization:
        """How the kernel is quantized."""
        found = self.dtype_policy.quantization
        assert found is not None
        return found

    @property
    def block(self) -> int | None:
        """Number of rows that share a scale; None if all rows share one."""
        config = self.quantization_config
        return _block(config.block_size) if isinstance(config, Int4QuantizationConfig) else self.quantization.block

    @property
    def activation_quantizer(self) -> AbsMaxQuantizer | None:
        """Quantizer of the inputs, or None if inputs aren't quantized."""
        if self.quantization_config is not None:
            chosen: AbsMaxQuantizer | None = self.quantization_config.activation_quantizer
            return chosen
        return AbsMaxQuantizer() if self.quantization.mode == "int8" else None

    @property
    def goes_by_policy(self) -> bool:
        """Whether the dtype policy alone determines the quantization, so that no config has to be saved."""
        plain = AbsMaxQuantizer().get_config() if self.quantization.mode == "int8" else None
        chosen = self.activation_quantizer
        return plain == (None if chosen is None else chosen.get_config())

    def add_array(self, name: str, shape: Shape, dtype: str | None = None) -> None:
        """Creates an array that isn't trainable; scales are initialised to ones, others to zeros."""
        self.add_weight(name, shape, _ONES if "scale" in name else _ZEROS, trainable=False, dtype=dtype)

    def groups(self, rows: int) -> int:
        """Number of scales for this many rows."""
        return 1 if self.block is None else math.ceil(rows / self.block)

    def bind_unscaled(self, binder: Binder) -> Any:
        """Returns weights for calls that bypass Keras's quantized computation and use the stored values directly."""
        raise NotImplementedError

    def enable_lora(self, rank: int, lora_alpha: float | None = None, *initializers: Any, **named: Any) -> None:
        """As for other layers. Raises ConfigError if the kernel is neither int8 nor int4."""
        if (mode := self.quantization.mode) not in ("int8", "int4"):
            label = f"layer '{self.name}' ({self.keras_class_name})"
            raise ConfigError(f"{label}: kernels quantized by {mode} take no LoRA weights, expected int8 or int4")
        super().enable_lora(rank, lora_alpha, *initializers, **named)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dtype": self.dtype_policy.serialized()}


def _block(size: int | None) -> int | None:
    return None if size is None or size < 1 else size


class QuantizedKernel(QuantizedLayer):
    """A layer with one quantized kernel: Dense or EinsumDense.

    kernel_shape   shape of the kernel in the product
    size           rows and columns of the matrix that it is stored as
    """

    #: Keras's name for the zero points of a calibrated kernel.
    zero_name = "kernel_zero"

    def add_kernel(
        self,
        shape: tuple[int, ...],
        size: tuple[int, int],
        scale_shape: tuple[int, ...],
        packed_shape: tuple[int, ...],
        add_bias: Callable[[], None],
    ) -> None:
        """Creates kernel, bias and scales in file order.

        `size` is (rows, columns), `scale_shape` the shape of the scales of int8, `packed_shape` that of the int4 kernel
        before Keras 3.14.
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
        """Creates the kernel of a float8 layer, which is stored unquantized."""
        raise NotImplementedError

    def fit_stored_shapes(self, shapes: list[tuple[int, ...]]) -> None:
        """Adapts to Keras 3.11 to 3.13, which pack two rows per byte and quantize inputs by default."""
        kernel = self.own_weights[0]
        old = self.quantization.mode == "int4" and self.block is None and shapes
        if old and shapes[0] == self._packed_shape and shapes[0] != kernel.shape:
            self.packed_by_rows = True
            scale = next(weight for weight in self.own_weights if weight.name == "kernel_scale")
            kernel.shape, scale.shape = self._packed_shape, self._scale_shape

    @property
    def activation_quantizer(self) -> AbsMaxQuantizer | None:
        """Quantizer of the inputs, or None if inputs aren't quantized."""
        if self.packed_by_rows and self.quantization_config is None:
            return AbsMaxQuantizer()
        whole = self.quantization.mode in ("int8", "int4") and self.block is None
        return super().activation_quantizer if whole else None

    @property
    def adapted_shape(self) -> tuple[int, ...]:
        """Shape of the kernel in the product."""
        return self.kernel_shape

    # Computation.

    def bind(self, binder: Binder) -> Any:
        """Returns the weights, with the kernel in the form that is multiplied and the divisor of the product."""
        w = super().bind(binder)
        w.divisor, w.unscaled = None, False
        getattr(self, f"_bind_{self.quantization.mode}")(w)
        return w

    def bind_unscaled(self, binder: Binder) -> Any:
        """Returns the weights with the stored kernel values; Keras can't multiply a calibrated kernel unscaled."""
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
        """The int4 values, (rows, columns) or, before Keras 3.14, in the shape of the product's kernel."""
        if not self.packed_by_rows:
            return unpacked(stored, self.size[1], -1)
        axis = next(i for i, n in enumerate(self._packed_shape) if n != self.kernel_shape[i])
        return unpacked(stored, self.kernel_shape[axis], axis)

    def _floats(self, values: torch.Tensor) -> torch.Tensor:
        """Integers as floats: float32 if they are multiplied with integers."""
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
        """Returns kernel and divisor of the product from integers (rows, columns) and the scale of each column."""
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
        """Returns multiply(x, kernel). `axes` of x are summed over; `aligned` permutes their scale to the product's
        layout. Raises GraphError for training in float8.
        """
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
            # Straight-through estimator: the gradient is that of the product with the unrounded x.
            plain = multiply(x, w.kernel.to(kind))
            plain = plain if w.divisor is None else plain / w.divisor
            y = y + (plain - plain.detach())
        return y
