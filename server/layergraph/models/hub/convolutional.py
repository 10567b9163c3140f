"""DenseNet, VGG and Xception (keras_hub.models)."""

from __future__ import annotations

from typing import Any

from layergraph.config.options import Expected, boolean, list_of, nonnegative, option, positive_int
from layergraph.config.spec import MAX_LAYERS
from layergraph.functional.tensor import Tensor
from layergraph.layers import (
    Activation,
    Add,
    AveragePooling2D,
    BatchNormalization,
    Concatenate,
    Conv2D,
    MaxPooling2D,
    SeparableConv2D,
)
from layergraph.models.hub.architecture import Architecture, Ends, layers_per_stack, per_stack, same_length
from layergraph.models.hub.images import image_input, image_shape


class DenseNetBackbone(Architecture):
    """DenseNet (Huang et al., 2016; keras_hub.models.DenseNetBackbone). Images (rows, height, width, channels).

    stackwise_num_repeats   number of blocks of each stack
    growth_rate             number of channels that each block adds
    compression_ratio       fraction of the channels that is kept between stacks

    As in KerasHub, layers compute in float32, whatever `dtype` is.
    """

    stackwise_num_repeats: tuple[int, ...] = option(layers_per_stack, kw_only=True)
    image_shape: Any = option(image_shape, default=(None, None, 3), kw_only=True)
    compression_ratio: float = option(nonnegative, default=0.5, kw_only=True)
    growth_rate: int = option(positive_int, default=32, kw_only=True)

    def graph(self) -> Ends:
        """Creates the layers and calls them."""
        images = image_input(self.image_shape)
        x = Conv2D(64, 7, strides=2, use_bias=False, padding="same", name="conv1_conv")(images)
        x = self._activated(x, "conv1_bn", "conv1_relu")
        x = MaxPooling2D(3, strides=2, padding="same", name="pool1")(x)
        for stack, repeats in enumerate(self.stackwise_num_repeats, 1):
            for block in range(1, repeats + 1):
                x = self._block(x, f"stack{stack}_block{block}")
            if stack < len(self.stackwise_num_repeats):
                x = self._transition(x, f"transition{stack}")
        return images, self._activated(x, "bn", "relu")

    def _activated(self, x: Tensor, norm: str, activation: str) -> Tensor:
        x = BatchNormalization(epsilon=1.001e-5, name=norm)(x)
        made: Tensor = Activation("relu", name=activation)(x)
        return made

    def _block(self, x: Tensor, name: str) -> Tensor:
        """Adds channels to x."""
        y = self._activated(x, f"{name}_1_bn", f"{name}_1_relu")
        y = Conv2D(4 * self.growth_rate, 1, use_bias=False, name=f"{name}_1_conv")(y)
        y = self._activated(y, f"{name}_2_bn", f"{name}_2_relu")
        y = Conv2D(self.growth_rate, 3, padding="same", use_bias=False, name=f"{name}_2_conv")(y)
        made: Tensor = Concatenate(name=f"{name}_concat")([x, y])
        return made

    def _transition(self, x: Tensor, name: str) -> Tensor:
        """Reduces channels and size."""
        channels = int((x.shape[-1] or 0) * self.compression_ratio)
        x = self._activated(x, f"{name}_bn", f"{name}_relu")
        x = Conv2D(channels, 1, use_bias=False, name=f"{name}_conv")(x)
        made: Tensor = AveragePooling2D(2, strides=2, name=f"{name}_pool")(x)
        return made


class VGGBackbone(Architecture):
    """VGG (Simonyan and Zisserman, 2014; keras_hub.models.VGGBackbone). Images (rows, height, width, channels).

    As in KerasHub, layers compute in float32, and configs have neither name nor dtype.
    """

    stackwise_num_repeats: tuple[int, ...] = option(layers_per_stack, kw_only=True)
    stackwise_num_filters: tuple[int, ...] = option(per_stack, kw_only=True)
    image_shape: Any = option(image_shape, default=(None, None, 3), kw_only=True)

    def setup(self) -> None:
        """Raises ConfigError for lists of different lengths."""
        same_length(self, ("stackwise_num_repeats", "stackwise_num_filters"))

    def graph(self) -> Ends:
        """Creates the layers and calls them."""
        images = x = image_input(self.image_shape)
        stacks = zip(self.stackwise_num_repeats, self.stackwise_num_filters, strict=True)
        for stack, (repeats, filters) in enumerate(stacks, 1):
            for i in range(1, repeats + 1):
                x = Conv2D(filters, 3, activation="relu", padding="same", name=f"block{stack}_conv{i}")(x)
            x = MaxPooling2D(2, 2, name=f"block{stack}_pool")(x)
        return images, x

    def get_config(self) -> dict[str, Any]:
        """The options that KerasHub's class takes from a file."""
        config = super().get_config()
        return {key: config[key] for key in ("stackwise_num_repeats", "stackwise_num_filters", "image_shape")}


def _filters(value: Any) -> tuple[tuple[int, ...], ...]:
    blocks = list_of(per_stack)(value)
    if not blocks or sum(map(len, blocks)) > MAX_LAYERS:
        raise Expected(f"lists of 1 to {MAX_LAYERS} integers in total")
    return blocks


class XceptionBackbone(Architecture):
    """Xception (Chollet, 2016; keras_hub.models.XceptionBackbone). Images (rows, height, width, channels).

    The first block has plain convolutions, all others separable ones; those between the first and the last are
    residual.

    stackwise_conv_filters   for each block, the filters of its convolutions
    stackwise_pooling        for each block, whether it ends with a pooling
    """

    stackwise_conv_filters: tuple[tuple[int, ...], ...] = option(_filters, kw_only=True)
    stackwise_pooling: tuple[bool, ...] = option(list_of(boolean), kw_only=True)
    image_shape: Any = option(image_shape, default=(None, None, 3), kw_only=True)

    def setup(self) -> None:
        """Raises ConfigError for lists of different lengths."""
        same_length(self, ("stackwise_conv_filters", "stackwise_pooling"))

    def graph(self) -> Ends:
        """Creates the layers and calls them."""
        images = x = image_input(self.image_shape)
        last = len(self.stackwise_conv_filters) - 1
        for block, (filters, pools) in enumerate(zip(self.stackwise_conv_filters, self.stackwise_pooling, strict=True)):
            y = self._convolutions(x, block, filters, first=block == 0, last=block == last)
            if pools:
                y = MaxPooling2D(3, strides=2, padding="same", dtype=self.dtype, name=f"block{block + 1}_pool")(y)
            x = y if block in (0, last) else self._residual(x, y, f"block{block + 1}_residual")
        return images, x

    def _convolutions(self, x: Tensor, block: int, filters: tuple[int, ...], *, first: bool, last: bool) -> Tensor:
        """The convolutions of a block, with the activations after them in the first and last block."""
        for i, count in enumerate(filters):
            name = f"block{block + 1}_{'conv' if first else 'sepconv'}{i + 1}"
            options: dict[str, Any] = {"use_bias": False, "dtype": self.dtype, "name": name}
            # The first convolution after the first block has its activation there.
            if not (first or last or (block == 1 and i == 0)):
                x = self._activated(x, name)
            if first:
                x = Conv2D(count, 3, strides=1 if i else 2, **options)(x)
            else:
                x = SeparableConv2D(count, 3, padding="same", **options)(x)
            x = BatchNormalization(dtype=self.dtype, name=f"{name}_bn")(x)
            x = self._activated(x, name) if first or last else x
        return x

    def _activated(self, x: Tensor, name: str) -> Tensor:
        made: Tensor = Activation("relu", dtype=self.dtype, name=f"{name}_act")(x)
        return made

    def _residual(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        """Adds a block's inputs, projected if their number of channels differs, to its results."""
        if x.shape[-1] != y.shape[-1]:
            options: dict[str, Any] = {"use_bias": False, "dtype": self.dtype, "name": f"{name}_conv"}
            x = Conv2D(y.shape[-1] or 0, 1, strides=2, padding="same", **options)(x)
            x = BatchNormalization(dtype=self.dtype, name=f"{name}_bn")(x)
        made: Tensor = Add(dtype=self.dtype, name=f"{name}_add")([y, x])
        return made
