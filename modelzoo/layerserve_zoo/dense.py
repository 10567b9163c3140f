"""A densely connected network: layers are called on tensors and return tensors."""

from layergraph import Input, Model
from layergraph.layers import Dense


def build(features: int = 784, units: int = 64, classes: int = 10) -> Model:
    """From (rows, features) to probabilities (rows, classes). Labels are one-hot."""
    # This returns a tensor
    inputs = Input(shape=(features,))

    # a layer instance is callable on a tensor, and returns a tensor
    output_1 = Dense(units, activation="relu")(inputs)
    output_2 = Dense(units, activation="relu")(output_1)
    predictions = Dense(classes, activation="softmax")(output_2)

    # This creates a model that includes the Input layer and three Dense layers
    model = Model(inputs=inputs, outputs=predictions)
    model.compile(optimizer="rmsprop", loss="categorical_crossentropy", metrics=["accuracy"])
    return model
