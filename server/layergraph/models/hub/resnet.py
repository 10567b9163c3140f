"""ResNet and its variants (keras_hub.models.ResNetBackbone)."""

from __future__ import annotations

from typing import Any

from layergraph import ops
from layergraph.config.options import boolean, one_of, option
from layergraph.functional.tensor import Tensor
from layergraph.layers import (
    Activation,
    Add,
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    MaxPooling2D,
    ZeroPadding2D,
)
from layergraph.models.hub.architecture import Architecture, Ends, layers_per_stack, per_stack, same_length
from layergraph.models.hub.images import image_input, image_shape


class ResNetBackbone(Architecture):
    """ResNet (He et al., 2015), ResNetV2 (He et al., 2016) and ResNet-vd (He et al., 2018;
    keras_hub.models.ResNetBackbone). Images (rows, height, width, channels).

    input_conv_filters, input_conv_kernel_sizes   of the convolutions before the stacks
    stackwise_...        filters, blocks and strides of each stack
    block_type           two convolutions of 3 x 3, or a bottleneck; the blocks of vd variants halve the size by pooling
    use_pre_activation   whether blocks begin with normalization and activation, as in ResNetV2
    """

    input_conv_filters: tuple[int, ...] = option(per_stack, kw_only=True)
    input_conv_kernel_sizes: tuple[int, ...] = option(per_stack, kw_only=True)
    stackwise_num_filters: tuple[int, ...] = option(per_stack, kw_only=True)
    stackwise_num_blocks: tuple[int, ...] = option(layers_per_stack, kw_only=True)
    stackwise_num_strides: tuple[int, ...] = option(per_stack, kw_only=True)
    block_type: str = option(
        one_of("basic_block", "bottleneck_block", "basic_block_vd", "bottleneck_block_vd"), kw_only=True
    )
    use_pre_activation: bool = option(boolean, default=False, kw_only=True)
    image_shape: Any = option(image_shape, default=(None, None, 3), kw_only=True)

    def setup(self) -> None:
        """Raises ConfigError for lists of different lengths."""
        same_length(self, ("input_conv_filters", "input_conv_kernel_sizes"))
        same_length(self, ("stackwise_num_filters", "stackwise_num_blocks", "stackwise_num_strides"))

    def graph(self) -> Ends:
        """Creates the layers and calls them."""
        images = image_input(self.image_shape)
        x = self._stem(images)
        for i, stack in enumerate(
            zip(self.stackwise_num_filters, self.stackwise_num_blocks, self.stackwise_num_strides, strict=True)
        ):
            filters, blocks, strides = stack
            projects = self.block_type != "basic_block" or i > 0
            for block in range(blocks):
                first = block == 0
                x = self._block(x, filters, strides if first else 1, first and projects, f"stack{i}_block{block}")
        if self.use_pre_activation:
            x = self._activated(self._normalized(x, "post_bn"), "post_relu")
        return images, x

    def _stem(self, x: Tensor) -> Tensor:
        """The convolutions and the pooling before the stacks."""
        for i, (filters, size) in enumerate(zip(self.input_conv_filters, self.input_conv_kernel_sizes, strict=True)):
            if i == 0:
                x = self._padded(x, (size - 1) // 2, "conv1_pad")
                x = self._convolved(x, filters, size, "conv1_conv", strides=2)
            else:
                x = self._activated(self._normalized(x, f"conv{i}_bn"), f"conv{i}_relu")
                x = self._convolved(x, filters, size, f"conv{i + 1}_conv", padding="same")
        if self.use_pre_activation:
            # Zeros could be larger than the values that follow.
            x = ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=float("-inf"))
        else:
            last = len(self.input_conv_filters)
            x = self._activated(self._normalized(x, f"conv{last}_bn"), f"conv{last}_relu")
            x = self._padded(x, 1, "pool1_pad")
        pooled: Tensor = MaxPooling2D(3, strides=2, dtype=self.dtype, name="pool1_pool")(x)
        return pooled

    def _block(self, x: Tensor, filters: int, strides: int, projects: bool, name: str) -> Tensor:
        """A residual block. `projects` means that its shortcut has a convolution."""
        bottleneck = self.block_type.startswith("bottleneck")
        inputs = before = x
        if self.use_pre_activation:
            inputs = self._activated(self._normalized(x, f"{name}_pre_activation_bn"), f"{name}_pre_activation_relu")
        if projects:
            before = self._shortcut(x, inputs, 4 * filters if bottleneck else filters, strides, name)
        # Kernel sizes of the convolutions, of which the first one larger than 1 has the strides.
        sizes = (1, 3, 1) if bottleneck else (3, 3)
        place = sizes.index(3)
        y = inputs
        for i, size in enumerate(sizes):
            strided = i == place and strides > 1
            if strided:
                y = self._padded(y, 1, f"{name}_{i + 1}_pad")
            last = i == len(sizes) - 1
            y = self._convolved(
                y,
                4 * filters if last and bottleneck else filters,
                size,
                f"{name}_{i + 1}_conv",
                strides=strides if i == place else 1,
                padding="same" if size > 1 and not strided else "valid",
            )
            if not last:
                y = self._activated(self._normalized(y, f"{name}_{i + 1}_bn"), f"{name}_{i + 1}_relu")
        if self.use_pre_activation:
            return self._added(before, y, f"{name}_out")
        y = self._added(before, self._normalized(y, f"{name}_{len(sizes)}_bn"), f"{name}_add")
        return self._activated(y, f"{name}_out")

    def _shortcut(self, x: Tensor, activated: Tensor, filters: int, strides: int, name: str) -> Tensor:
        """The shortcut of a block that changes the shape."""
        pools = self.block_type.endswith("_vd")
        before = activated if self.use_pre_activation else x
        if pools and strides > 1 and not self.use_pre_activation:
            before = AveragePooling2D(2, strides=strides, padding="same", dtype=self.dtype, name=f"{name}_0_pool")(x)
        before = self._convolved(before, filters, 1, f"{name}_0_conv", strides=1 if pools else strides)
        return before if self.use_pre_activation else self._normalized(before, f"{name}_0_bn")

    def _convolved(self, x: Tensor, filters: int, size: int, name: str, **options: Any) -> Tensor:
        made: Tensor = Conv2D(filters, size, use_bias=False, dtype=self.dtype, name=name, **options)(x)
        return made

    def _normalized(self, x: Tensor, name: str) -> Tensor:
        made: Tensor = BatchNormalization(epsilon=1e-5, momentum=0.9, dtype=self.dtype, name=name)(x)
        return made

    def _activated(self, x: Tensor, name: str) -> Tensor:
        made: Tensor = Activation("relu", dtype=self.dtype, name=name)(x)
        return made

    def _padded(self, x: Tensor, width: int, name: str) -> Tensor:
        made: Tensor = ZeroPadding2D(width, dtype=self.dtype, name=name)(x)
        return made

    def _added(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        made: Tensor = Add(dtype=self.dtype, name=name)([x, y])
        return made
