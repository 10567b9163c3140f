"""A residual connection: a convolution learns what to add to its input."""

from layergraph import Input, Model
from layergraph.layers import Conv2D, add


def build(size: int = 256, channels: int = 3) -> Model:
    """From an image (rows, size, size, channels) to one of the same shape."""
    # input tensor for an image
    x = Input(shape=(size, size, channels))
    # 3x3 conv with as many output channels as input channels
    y = Conv2D(channels, (3, 3), padding="same")(x)
    # this returns x + y.
    z = add([x, y])

    return Model(inputs=x, outputs=z)
