"""Shared layers: one LSTM encodes two tweets, to classify whether they are from the same person."""

from layergraph import Input, Model
from layergraph.layers import LSTM, Dense, concatenate


def build(characters: int = 280, alphabet: int = 256, units: int = 64) -> Model:
    """From two tweets (rows, characters, alphabet), one-hot by character, to a probability (rows, 1)."""
    tweet_a = Input(shape=(characters, alphabet), name="tweet_a")
    tweet_b = Input(shape=(characters, alphabet), name="tweet_b")

    # This layer can take as input a matrix and will return a vector
    shared_lstm = LSTM(units)

    # When we reuse the same layer instance multiple times, the weights of the layer are also being reused
    # (it is effectively *the same* layer)
    encoded_a = shared_lstm(tweet_a)
    encoded_b = shared_lstm(tweet_b)

    # We can then concatenate the two vectors:
    merged_vector = concatenate([encoded_a, encoded_b], axis=-1)

    # And add a logistic regression on top
    predictions = Dense(1, activation="sigmoid")(merged_vector)

    # We define a trainable model linking the tweet inputs to the predictions
    model = Model(inputs=[tweet_a, tweet_b], outputs=predictions)
    model.compile(optimizer="rmsprop", loss="binary_crossentropy", metrics=["accuracy"])
    return model
