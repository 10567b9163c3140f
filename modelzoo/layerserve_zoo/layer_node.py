"""Layer nodes: each call of a layer is a node, with its own inputs, outputs and shapes.

Ask the served model: `node_shapes("layer_node")["conv2d"].input_shape_at(1)`.
"""

from layergraph import Input, Model
from layergraph.layers import LSTM, Conv2D


def build(
    characters: int = 280,
    alphabet: int = 256,
    units: int = 32,
    small_size: int = 32,
    large_size: int = 64,
    filters: int = 16,
) -> Model:
    """One LSTM over two tweets (rows, characters, alphabet), one convolution over a small and a large colour image."""
    a = Input(shape=(characters, alphabet), name="tweet_a")
    b = Input(shape=(characters, alphabet), name="tweet_b")

    # Two nodes: `lstm.output` would be ill-defined; `lstm.get_output_at(0)` is encoded_a, and at 1 encoded_b
    lstm = LSTM(units)
    encoded_a = lstm(a)
    encoded_b = lstm(b)

    small_image = Input(shape=(small_size, small_size, 3), name="small_image")
    large_image = Input(shape=(large_size, large_size, 3), name="large_image")

    # The two nodes have different shapes: `conv.input_shape` would be ill-defined, `get_input_shape_at(1)` isn't
    conv = Conv2D(filters, (3, 3), padding="same")
    conved_small = conv(small_image)
    conved_large = conv(large_image)

    return Model(inputs=[a, b, small_image, large_image], outputs=[encoded_a, encoded_b, conved_small, conved_large])
