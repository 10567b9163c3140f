"""Models are callable, like layers: one classifies an image, and every frame of a sequence through TimeDistributed."""

from layergraph import Input, Model
from layergraph.layers import TimeDistributed

from layerserve_zoo import dense


def build(timesteps: int = 20, features: int = 784, units: int = 64, classes: int = 10) -> Model:
    """From an image (rows, features) and a sequence (rows, timesteps, features) to the classes of each image.

    Both go through the same dense network, weights and all.
    """
    model = dense.build(features, units, classes)

    x = Input(shape=(features,), name="image")
    # This works, and returns the softmax that the dense model defines.
    y = model(x)

    # Input tensor for sequences of timesteps, each containing a vector of features
    input_sequences = Input(shape=(timesteps, features), name="image_sequence")

    # This applies our previous model to every timestep in the input sequences. The output of the previous model was a
    # softmax, so the output of the layer below will be a sequence of vectors of the size of the softmax.
    processed_sequences = TimeDistributed(model)(input_sequences)

    return Model(inputs=[x, input_sequences], outputs=[y, processed_sequences])
