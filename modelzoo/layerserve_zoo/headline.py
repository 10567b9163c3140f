"""Two inputs and two outputs with a loss each: how often a headline will be shared, from its words and extra facts."""

from layergraph import Input, Model
from layergraph.layers import LSTM, Dense, Embedding, concatenate


def build(words: int = 100, vocabulary: int = 10000, width: int = 512, lstm_units: int = 32, units: int = 64) -> Model:
    """From word ids (rows, words) and facts (rows, 5) to two probabilities (rows, 1): the main and an auxiliary one."""
    # Headline input: meant to receive sequences of word ids. Note that we can name any layer by passing it a "name".
    main_input = Input(shape=(words,), dtype="int32", name="main_input")

    # This embedding layer will encode the input sequence into a sequence of dense vectors.
    x = Embedding(output_dim=width, input_dim=vocabulary)(main_input)

    # A LSTM will transform the vector sequence into a single vector, containing information about the entire sequence
    lstm_out = LSTM(lstm_units)(x)

    # The auxiliary loss lets the LSTM and Embedding train smoothly even though the main loss is much higher up
    auxiliary_output = Dense(1, activation="sigmoid", name="aux_output")(lstm_out)

    auxiliary_input = Input(shape=(5,), name="aux_input")
    x = concatenate([lstm_out, auxiliary_input])

    # We stack a deep densely-connected network on top
    x = Dense(units, activation="relu")(x)
    x = Dense(units, activation="relu")(x)
    x = Dense(units, activation="relu")(x)

    # And finally we add the main logistic regression layer
    main_output = Dense(1, activation="sigmoid", name="main_output")(x)

    model = Model(inputs=[main_input, auxiliary_input], outputs=[main_output, auxiliary_output])
    model.compile(optimizer="rmsprop", loss="binary_crossentropy", loss_weights=[1.0, 0.2])
    return model
