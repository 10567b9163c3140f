"""A shared vision model: one image model encodes two digits, to classify whether they are the same."""

from layergraph import Input, Model
from layergraph.layers import Conv2D, Dense, Flatten, MaxPooling2D, concatenate


def build(size: int = 27, filters: int = 64) -> Model:
    """From two digits (rows, size, size, 1) to a probability (rows, 1)."""
    # First, define the vision modules
    digit_input = Input(shape=(size, size, 1))
    x = Conv2D(filters, (3, 3))(digit_input)
    x = Conv2D(filters, (3, 3))(x)
    x = MaxPooling2D((2, 2))(x)
    out = Flatten()(x)

    vision_model = Model(digit_input, out, name="vision_model")

    # Then define the tell-digits-apart model
    digit_a = Input(shape=(size, size, 1), name="digit_a")
    digit_b = Input(shape=(size, size, 1), name="digit_b")

    # The vision model will be shared, weights and all
    out_a = vision_model(digit_a)
    out_b = vision_model(digit_b)

    concatenated = concatenate([out_a, out_b])
    out = Dense(1, activation="sigmoid")(concatenated)

    return Model([digit_a, digit_b], out)
