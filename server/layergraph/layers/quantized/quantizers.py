"""Quantizers (keras.quantizers) and the quantization configs that name them."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import (
    Configurable,
    Expected,
    anything,
    integer,
    list_of,
    number,
    one_of,
    one_or_list_of,
    option,
    optional,
    resolve,
)

_FLOAT8_MAX = 448.0


class AbsMaxQuantizer(Configurable):
    """Quantizes to integers within `value_range`, each row by its maximum (keras.quantizers.AbsMaxQuantizer).

    axis   axes of the maximum, where a layer doesn't set them
    """

    axis: Any = option(optional(one_or_list_of(integer)), default=None)
    value_range: tuple[float, ...] = option(list_of(number), default=(-127, 127))
    epsilon: float = option(number, default=1e-7)
    output_dtype: str = option(one_of("int8"), default="int8")

    def __call__(self, x: torch.Tensor, axes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the integers, as float32, and the scale that x was multiplied by, of length 1 along `axes`."""
        low, high = self.value_range
        largest = x.abs().amax(axes, keepdim=True) + self.epsilon
        # A Python number divided by a tensor is computed as a product with the reciprocal, which rounds differently.
        scale = torch.full_like(largest, high) / largest
        values = torch.round(x * scale).clamp(low, high).float()
        # In float16 the scale of zeros is infinite; Keras's conversion to integers makes 0 of the products' NaN.
        return values.nan_to_num(0.0) if x.dtype == torch.float16 else values, scale

    def get_config(self) -> dict[str, Any]:
        """Keras's config, without `axis` if it is None."""
        config = super().get_config()
        return {key: value for key, value in config.items() if key != "axis" or value is not None}


def quantizer(value: Any) -> AbsMaxQuantizer:
    """Validator: a quantizer."""
    return resolve("quantizer", value, {"AbsMaxQuantizer": AbsMaxQuantizer})


class _Config(Configurable):
    weight_quantizer: Any = option(optional(quantizer), default=None)
    activation_quantizer: Any = option(optional(quantizer), default=None)


class Int8QuantizationConfig(_Config):
    """int8 kernels; inputs are quantized, too, if there is an activation quantizer."""


class Int4QuantizationConfig(_Config):
    """int4 kernels, with a scale for each `block_size` inputs."""

    block_size: int | None = option(optional(integer), default=None)


class Float8QuantizationConfig(_Config):
    """float8 products."""

    def get_config(self) -> dict[str, Any]:
        """Empty: the config has no options."""
        return {}


class _Calibrated(_Config):
    """How a kernel was calibrated; irrelevant beside the policy."""

    dataset: Any = option(anything, default=None)
    tokenizer: Any = option(anything, default=None)
    weight_bits: int = option(integer, default=4)
    group_size: int = option(integer, default=128)
    num_samples: int = option(integer, default=128)
    sequence_length: int = option(integer, default=512)
    quantization_layer_structure: Any = option(anything, default=None)

    def get_config(self) -> dict[str, Any]:
        """Keras's config, without the dataset and the layers used in calibration."""
        config = super().get_config()
        del config["weight_quantizer"], config["activation_quantizer"]
        return {**config, "dataset": None, "tokenizer": None, "quantization_layer_structure": None}


class GPTQConfig(_Calibrated):
    """Config of GPTQ (Frantar et al., 2022)."""

    per_channel: Any = option(anything, default=True)
    hessian_damping: float = option(number, default=0.01)
    symmetric: Any = option(anything, default=False)
    activation_order: Any = option(anything, default=False)


class AWQConfig(_Calibrated):
    """Config of AWQ (Lin et al., 2023)."""

    num_grid_points: int = option(integer, default=20)


_CONFIGS: dict[str, type[_Config]] = {
    known.__name__: known
    for known in (Int8QuantizationConfig, Int4QuantizationConfig, Float8QuantizationConfig, GPTQConfig, AWQConfig)
}


def quantization_config(value: Any) -> _Config:
    """Validator: a quantization config, or Keras's serialised form of one."""
    if not isinstance(value, (dict, _Config)):
        raise Expected("a quantization config")
    return resolve("quantization config", value, _CONFIGS)


# Number formats.


def unpacked(stored: torch.Tensor, length: int, axis: int) -> torch.Tensor:
    """Unpacks two 4-bit numbers per byte, the low one first, to `length` numbers along `axis`.

    Numbers from signed bytes are signed (keras.quantizers.unpack_int4).
    """
    low, high = stored & 15, (stored >> 4) & 15
    if stored.dtype == torch.int8:
        low, high = ((part ^ 8) - 8 for part in (low, high))
    axis %= stored.ndim
    return torch.stack([low, high], axis + 1).flatten(axis, axis + 1).narrow(axis, 0, length)


def dequantized(
    values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, groups: torch.Tensor, axis: int
) -> torch.Tensor:
    """Returns (values - zero) * scale, by the group of each index along `axis` (Keras's dequantize_with_sz_map)."""
    places = groups.to(torch.int32)
    scale, zero = scale.index_select(axis, places), zero.index_select(axis, places)
    return (values - zero.to(scale.dtype)) * scale


def float8(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Rounds x to float8 e4m3 (keras.quantizers.quantize_and_dequantize)."""
    scale = scale.to(x.dtype)
    return (x / scale).clamp(-_FLOAT8_MAX, _FLOAT8_MAX).to(torch.float8_e4m3fn).to(x.dtype) * scale
