"""Every code block of Keras's guide to the functional API, in its order and its words: only the import differs.

Sizes are the guide's where nothing runs, and small where something does.
"""

from __future__ import annotations

from typing import Any

import keras
import layergraph
import numpy as np
import pytest
from layergraph import Input, Model, Sequential
from layergraph.layers import (
    LSTM,
    Conv2D,
    Dense,
    Embedding,
    Flatten,
    MaxPooling2D,
    TimeDistributed,
    add,
    concatenate,
)
from oracles import assert_close

Arrays = list[np.ndarray]


@pytest.fixture(autouse=True)
def _fresh_names() -> None:
    layergraph.clear_session()


# First example: a densely-connected network.


def dense_network(features: int = 784) -> Model:
    inputs = Input(shape=(features,))

    output_1 = Dense(64, activation="relu")(inputs)
    output_2 = Dense(64, activation="relu")(output_1)
    predictions = Dense(10, activation="softmax")(output_2)

    return Model(inputs=inputs, outputs=predictions)


def test_first_example_trains() -> None:
    model = dense_network()
    model.compile(optimizer="rmsprop", loss="categorical_crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(0)
    data = rng.random((64, 784), "float32")
    labels = np.eye(10, dtype="float32")[rng.integers(0, 10, 64)]
    history = model.fit(data, labels, epochs=3, verbose=0)  # starts training
    assert set(history.history) == {"loss", "accuracy"}
    assert history.history["loss"][-1] < history.history["loss"][0]
    np.testing.assert_allclose(model.predict(data).sum(axis=-1), 1, rtol=1e-5)


# All models are callable, just like layers.


def test_a_model_is_called_like_a_layer() -> None:
    model = dense_network()
    x = Input(shape=(784,))
    # This works, and returns the 10-way softmax we defined above.
    y = model(x)
    assert y.shape == (None, 10)
    data = np.random.default_rng(0).random((3, 784), "float32")
    assert_close(Model(x, y).predict(data), model.predict(data))


def test_a_model_is_applied_to_every_timestep() -> None:
    model = dense_network()
    # Input tensor for sequences of 20 timesteps, each containing a 784-dimensional vector
    input_sequences = Input(shape=(20, 784))

    # the output of the layer below will be a sequence of 20 vectors of size 10.
    processed_sequences = TimeDistributed(model)(input_sequences)
    assert processed_sequences.shape == (None, 20, 10)

    sequences = np.random.default_rng(0).random((2, 20, 784), "float32")
    processed = Model(input_sequences, processed_sequences).predict(sequences)
    assert_close(processed[:, 7], model.predict(sequences[:, 7]))


# Multi-input and multi-output models.


def headline_network(vocabulary: int = 10000, width: int = 512) -> Model:
    # Headline input: meant to receive sequences of 100 integers, between 1 and 10000.
    # Note that we can name any layer by passing it a "name" argument.
    main_input = Input(shape=(100,), dtype="int32", name="main_input")

    # This embedding layer will encode the input sequence into a sequence of dense 512-dimensional vectors.
    x = Embedding(output_dim=width, input_dim=vocabulary, input_length=100)(main_input)

    # A LSTM will transform the vector sequence into a single vector, containing information about the entire sequence
    lstm_out = LSTM(32)(x)
    auxiliary_output = Dense(1, activation="sigmoid", name="aux_output")(lstm_out)

    auxiliary_input = Input(shape=(5,), name="aux_input")
    x = layergraph.layers.concatenate([lstm_out, auxiliary_input])

    # We stack a deep densely-connected network on top
    x = Dense(64, activation="relu")(x)
    x = Dense(64, activation="relu")(x)
    x = Dense(64, activation="relu")(x)

    # And finally we add the main logistic regression layer
    main_output = Dense(1, activation="sigmoid", name="main_output")(x)
    return Model(inputs=[main_input, auxiliary_input], outputs=[main_output, auxiliary_output])


def stock_headline_network(vocabulary: int, width: int) -> Any:
    layers = keras.layers
    main_input = keras.Input(shape=(100,), dtype="int32", name="main_input")
    lstm_out = layers.LSTM(32)(layers.Embedding(vocabulary, width)(main_input))
    auxiliary_output = layers.Dense(1, activation="sigmoid", name="aux_output")(lstm_out)
    auxiliary_input = keras.Input(shape=(5,), name="aux_input")
    x = layers.concatenate([lstm_out, auxiliary_input])
    for _ in range(3):
        x = layers.Dense(64, activation="relu")(x)
    main_output = layers.Dense(1, activation="sigmoid", name="main_output")(x)
    return keras.Model(inputs=[main_input, auxiliary_input], outputs=[main_output, auxiliary_output])


def headline_data(rows: int = 12) -> tuple[Arrays, Arrays]:
    """The guide's own data. Its labels are no probabilities."""
    np.random.seed(0)
    headlines = np.round(np.abs(np.random.rand(rows, 100) * 100))
    additional = np.random.randn(rows, 5)
    return [headlines, additional], [np.random.randn(rows, 1), np.random.randn(rows, 1)]


def binary(labels: Arrays) -> Arrays:
    """Labels that Keras takes on torch, too."""
    return [(label > 0).astype("float32") for label in labels]


SERIALISED = {"class_name": "BinaryCrossentropy", "config": {"from_logits": False}}
NAMES = ("main_output", "aux_output")
#: All twelve rows are one batch, so an epoch is a step.
STEPS = 8
COMPILED = {
    "one string": {"loss": "binary_crossentropy", "loss_weights": [1.0, 0.2]},
    "a list": {"loss": ["binary_crossentropy", "binary_crossentropy"], "loss_weights": [1.0, 0.2]},
    "a dict": {
        "loss": {"main_output": "binary_crossentropy", "aux_output": "binary_crossentropy"},
        "loss_weights": {"main_output": 1.0, "aux_output": 0.2},
    },
    "serialised": {"loss": dict.fromkeys(NAMES, SERIALISED), "loss_weights": {"main_output": 1.0, "aux_output": 0.2}},
    "one serialised for both": {"loss": [SERIALISED, SERIALISED], "loss_weights": [1.0, 0.2]},
}


@pytest.fixture(scope="module")
def keras_losses() -> tuple[list[np.ndarray], dict[str, list[float]]]:
    """Initial weights, and the losses that stock Keras gives from them in the guide's training."""
    keras.utils.set_random_seed(0)
    model = stock_headline_network(200, 16)
    weights = model.get_weights()
    # Keras 3 wants as many losses as weights; the guide's one string for both is Keras 2's way, and ours too.
    model.compile(optimizer="rmsprop", loss=["binary_crossentropy"] * 2, loss_weights=[1.0, 0.2])
    data, labels = headline_data()
    return weights, model.fit(data, binary(labels), epochs=STEPS, batch_size=32, shuffle=False, verbose=0).history


@pytest.mark.parametrize(
    ("settings", "by_name"),
    [*((settings, False) for settings in COMPILED.values()), (COMPILED["a dict"], True)],
    ids=[*COMPILED, "a dict, as the data"],
)
def test_two_losses_train_as_in_keras_however_they_are_given(
    settings: dict[str, Any], by_name: bool, keras_losses: tuple[list[np.ndarray], dict[str, list[float]]]
) -> None:
    weights, expected = keras_losses
    model = headline_network(200, 16)
    model.set_weights(weights)
    model.compile(optimizer="rmsprop", **settings)
    data, labels = headline_data()[0], binary(headline_data()[1])
    if by_name:
        history = model.fit(
            {"main_input": data[0], "aux_input": data[1]},
            {"main_output": labels[0], "aux_output": labels[1]},
            epochs=STEPS,
            batch_size=32,
            verbose=0,
        )
    else:
        history = model.fit(data, labels, epochs=STEPS, batch_size=32, verbose=0)
    assert set(history.history) == set(expected)
    for name, losses in expected.items():
        np.testing.assert_allclose(history.history[name], losses, rtol=1e-4, err_msg=name)


def test_prediction_takes_lists_and_dicts() -> None:
    model = headline_network(200, 16)
    (headlines, additional), _ = headline_data()
    by_name = model.predict({"main_input": headlines, "aux_input": additional})
    # or alternatively,
    pred = model.predict([headlines, additional])
    assert [p.shape for p in pred] == [(12, 1), (12, 1)]
    for one, other in zip(by_name, pred, strict=True):
        np.testing.assert_array_equal(one, other)


def test_at_the_guides_sizes_the_headline_model_has_the_guides_shapes() -> None:
    model = headline_network()
    assert model.input_shape == [(None, 100), (None, 5)]
    assert model.output_shape == [(None, 1), (None, 1)]
    assert model.get_layer("embedding").output_shape == (None, 100, 512)
    assert model.get_layer("concatenate").output_shape == (None, 37)


# Shared layers.


def test_a_shared_layer_encodes_both_tweets_with_the_same_weights() -> None:
    tweet_a = Input(shape=(280, 256))
    tweet_b = Input(shape=(280, 256))

    # This layer can take as input a matrix and will return a vector of size 64
    shared_lstm = LSTM(64)

    # When we reuse the same layer instance multiple times, the weights of the layer are also being reused
    encoded_a = shared_lstm(tweet_a)
    encoded_b = shared_lstm(tweet_b)

    # We can then concatenate the two vectors:
    merged_vector = layergraph.layers.concatenate([encoded_a, encoded_b], axis=-1)

    # And add a logistic regression on top
    predictions = Dense(1, activation="sigmoid")(merged_vector)

    # We define a trainable model linking the tweet inputs to the predictions
    model = Model(inputs=[tweet_a, tweet_b], outputs=predictions)
    assert len(model.weights) == 3 + 2

    model.compile(optimizer="rmsprop", loss="binary_crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(0)
    data_a, data_b = rng.random((2, 4, 280, 256), "float32")
    history = model.fit([data_a, data_b], np.array([0, 1, 1, 0]), epochs=2, verbose=0)
    assert set(history.history) == {"loss", "accuracy"}
    same = Model([tweet_a, tweet_b], [encoded_a, encoded_b]).predict([data_a, data_a])
    assert_close(same[0], same[1])


# More examples.


def test_inception_module() -> None:
    input_img = Input(shape=(256, 256, 3))

    tower_1 = Conv2D(64, (1, 1), padding="same", activation="relu")(input_img)
    tower_1 = Conv2D(64, (3, 3), padding="same", activation="relu")(tower_1)

    tower_2 = Conv2D(64, (1, 1), padding="same", activation="relu")(input_img)
    tower_2 = Conv2D(64, (5, 5), padding="same", activation="relu")(tower_2)

    tower_3 = MaxPooling2D((3, 3), strides=(1, 1), padding="same")(input_img)
    tower_3 = Conv2D(64, (1, 1), padding="same", activation="relu")(tower_3)

    output = layergraph.layers.concatenate([tower_1, tower_2, tower_3], axis=1)
    assert output.shape == (None, 768, 256, 64)


def test_residual_connection_on_a_convolution_layer() -> None:
    # input tensor for a 3-channel 256x256 image
    x = Input(shape=(256, 256, 3))
    # 3x3 conv with 3 output channels (same as input channels)
    y = Conv2D(3, (3, 3), padding="same")(x)
    # this returns x + y.
    z = add([x, y])

    image = np.random.default_rng(0).random((1, 256, 256, 3), "float32")
    convolved, total = Model(x, [y, z]).predict(image)
    assert_close(total, image + convolved)


def test_shared_vision_model() -> None:
    # First, define the vision modules
    digit_input = Input(shape=(27, 27, 1))
    x = Conv2D(64, (3, 3))(digit_input)
    x = Conv2D(64, (3, 3))(x)
    x = MaxPooling2D((2, 2))(x)
    out = Flatten()(x)

    vision_model = Model(digit_input, out)

    # Then define the tell-digits-apart model
    digit_a = Input(shape=(27, 27, 1))
    digit_b = Input(shape=(27, 27, 1))

    # The vision model will be shared, weights and all
    out_a = vision_model(digit_a)
    out_b = vision_model(digit_b)

    concatenated = concatenate([out_a, out_b])
    out = Dense(1, activation="sigmoid")(concatenated)

    classification_model = Model([digit_a, digit_b], out)
    assert concatenated.shape == (None, 2 * 11 * 11 * 64)
    assert len(classification_model.weights) == 4 + 2
    assert vision_model in classification_model.layers
    digits = np.random.default_rng(0).random((2, 27, 27, 1), "float32")
    seen = Model([digit_a, digit_b], [out_a, out_b]).predict([digits, digits])
    assert_close(seen[0], vision_model.predict(digits))
    np.testing.assert_array_equal(seen[0], seen[1])


def visual_question_answering() -> tuple[Any, ...]:
    """The guide's names that its next example uses."""
    # First, let's define a vision model using a Sequential model. This model will encode an image into a vector.
    vision_model = Sequential()
    vision_model.add(Conv2D(64, (3, 3), activation="relu", padding="same", input_shape=(224, 224, 3)))
    vision_model.add(Conv2D(64, (3, 3), activation="relu"))
    vision_model.add(MaxPooling2D((2, 2)))
    vision_model.add(Conv2D(128, (3, 3), activation="relu", padding="same"))
    vision_model.add(Conv2D(128, (3, 3), activation="relu"))
    vision_model.add(MaxPooling2D((2, 2)))
    vision_model.add(Conv2D(256, (3, 3), activation="relu", padding="same"))
    vision_model.add(Conv2D(256, (3, 3), activation="relu"))
    vision_model.add(Conv2D(256, (3, 3), activation="relu"))
    vision_model.add(MaxPooling2D((2, 2)))
    vision_model.add(Flatten())

    # Now let's get a tensor with the output of our vision model:
    image_input = Input(shape=(224, 224, 3))
    encoded_image = vision_model(image_input)

    # Next, let's define a language model to encode the question into a vector. Each question will be at most 100 words
    # long, and we will index words as integers from 1 to 9999.
    question_input = Input(shape=(100,), dtype="int32")
    embedded_question = Embedding(input_dim=10000, output_dim=256, input_length=100)(question_input)
    encoded_question = LSTM(256)(embedded_question)

    # Let's concatenate the question vector and the image vector:
    merged = layergraph.layers.concatenate([encoded_question, encoded_image])

    # And let's train a logistic regression over 1000 words on top:
    output = Dense(1000, activation="softmax")(merged)

    # This is our final model:
    vqa_model = Model(inputs=[image_input, question_input], outputs=output)
    return vqa_model, vision_model, question_input, encoded_question


def test_visual_question_answering_model() -> None:
    vqa_model, vision_model, _, encoded_question = visual_question_answering()
    assert vision_model.output_shape == (None, 25 * 25 * 256)
    assert encoded_question.shape == (None, 256)
    assert vqa_model.input_shape == [(None, 224, 224, 3), (None, 100)]
    assert vqa_model.output_shape == (None, 1000)


def test_video_question_answering_model() -> None:
    vqa_model, vision_model, question_input, encoded_question = visual_question_answering()
    video_input = Input(shape=(100, 224, 224, 3))
    # This is our video encoded via the previously trained vision_model (weights are reused)
    encoded_frame_sequence = TimeDistributed(vision_model)(video_input)  # the output will be a sequence of vectors
    encoded_video = LSTM(256)(encoded_frame_sequence)  # the output will be a vector

    # This is a model-level representation of the question encoder, reusing the same weights as before:
    question_encoder = Model(inputs=question_input, outputs=encoded_question)

    # Let's use it to encode the question:
    video_question_input = Input(shape=(100,), dtype="int32")
    encoded_video_question = question_encoder(video_question_input)

    # And this is our video question answering model:
    merged = layergraph.layers.concatenate([encoded_video, encoded_video_question])
    output = Dense(1000, activation="softmax")(merged)
    video_qa_model = Model(inputs=[video_input, video_question_input], outputs=output)

    assert encoded_frame_sequence.shape == (None, 100, 25 * 25 * 256)
    assert video_qa_model.output_shape == (None, 1000)
    # Of its weights, the image model shares all but those of its answers.
    shared = set(vqa_model.weights) & set(video_qa_model.weights)
    assert shared == set(vision_model.weights) | set(question_encoder.weights)
    assert len(shared) == len(vqa_model.weights) - 2
