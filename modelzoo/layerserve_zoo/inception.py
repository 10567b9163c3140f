"""An inception module: three towers over one image, concatenated along its height."""

from layergraph import Input, Model
from layergraph.layers import Conv2D, MaxPooling2D, concatenate


def build(size: int = 256, filters: int = 64) -> Model:
    """From a colour image (rows, size, size, 3) to (rows, 3 size, size, filters)."""
    input_img = Input(shape=(size, size, 3))

    tower_1 = Conv2D(filters, (1, 1), padding="same", activation="relu")(input_img)
    tower_1 = Conv2D(filters, (3, 3), padding="same", activation="relu")(tower_1)

    tower_2 = Conv2D(filters, (1, 1), padding="same", activation="relu")(input_img)
    tower_2 = Conv2D(filters, (5, 5), padding="same", activation="relu")(tower_2)

    tower_3 = MaxPooling2D((3, 3), strides=(1, 1), padding="same")(input_img)
    tower_3 = Conv2D(filters, (1, 1), padding="same", activation="relu")(tower_3)

    output = concatenate([tower_1, tower_2, tower_3], axis=1)

    return Model(inputs=input_img, outputs=output)
