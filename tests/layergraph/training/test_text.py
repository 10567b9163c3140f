"""Models whose inputs are text: `fit`, `evaluate` and `predict` against stock Keras on the words' indices."""

from __future__ import annotations

import keras
import layergraph
import numpy as np
import pytest
import torch
from layergraph import layers
from layergraph.errors import DataError, ElementError
from layergraph.training.mapped_text import MappedText

WORDS = ["good", "bad", "film", "fun", "ünder"]
TEXTS = ["good film", "Bad, bad film!", "fun", "ünder fun film", "nothing known", "good", "bad", ""]
LABELS = np.array([1, 0, 1, 1, 0, 1, 0, 0], np.float32)
LENGTH = 4


def indices() -> np.ndarray:
    """What TextVectorization gives for TEXTS: 0 is padding, 1 a word that isn't in the vocabulary."""
    rows = np.zeros((len(TEXTS), LENGTH), "int64")
    for row, text in enumerate(TEXTS):
        words = text.lower().replace(",", "").replace("!", "").split()
        rows[row, : len(words)] = [2 + WORDS.index(word) if word in WORDS else 1 for word in words]
    return rows


def tail(of, x):
    x = of.layers.Embedding(len(WORDS) + 2, 6, name="vectors")(x)
    x = of.layers.GlobalAveragePooling1D(name="mean")(x)
    return of.layers.Dense(1, activation="sigmoid", name="answer")(x)


@pytest.fixture
def pair():
    """A classifier of text, and stock Keras's of indices, with the same weights."""
    text = layergraph.Input((1,), dtype="string", name="text")
    split = layers.TextVectorization(vocabulary=WORDS, output_sequence_length=LENGTH, name="split")
    own = layergraph.Model(text, tail(layergraph, split(text)))
    number = keras.Input((LENGTH,), dtype="int64")
    stock = keras.Model(number, tail(keras, number))
    stock.set_weights([np.random.default_rng(3).normal(size=w.shape) for w in stock.get_weights()])
    own.set_weights(stock.get_weights())
    for model in (own, stock):
        model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return own, stock


def on_disk(texts: list[str]) -> MappedText:
    encoded = [text.encode() for text in texts]
    content = np.frombuffer(b"".join(encoded), np.uint8)
    return MappedText(content, np.cumsum([len(text) for text in encoded]), (len(texts),))


FORMS = {
    "U": lambda: np.array(TEXTS),
    "column": lambda: np.array(TEXTS)[:, None],
    "S": lambda: np.array([text.encode() for text in TEXTS]),
    "objects": lambda: np.array(TEXTS, object),
    "bytes objects": lambda: np.array([text.encode() for text in TEXTS], object),
    "str and bytes": lambda: [TEXTS[0].encode(), *TEXTS[1:]],
    "list": lambda: list(TEXTS),
    "tuple": lambda: tuple(TEXTS),
    "list of lists": lambda: [[text] for text in TEXTS],
    "list of an array": lambda: [np.array(TEXTS)],
    "dict": lambda: {"text": TEXTS},
    "file": lambda: on_disk(TEXTS),
}


@pytest.mark.parametrize("form", FORMS)
def test_text_in_every_form_gives_keras_numbers(pair, form):
    own, stock = pair
    x = FORMS[form]()
    np.testing.assert_allclose(own.predict(x, batch_size=3), stock.predict(indices(), verbose=0), atol=1e-6)
    np.testing.assert_allclose(own.predict_on_batch(x), stock.predict(indices(), verbose=0), atol=1e-6)
    expected = stock.fit(indices(), LABELS, batch_size=3, epochs=3, shuffle=False, verbose=0).history
    got = own.fit(x, LABELS, batch_size=3, epochs=3, shuffle=False, verbose=0).history
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-5, err_msg=name)
    expected = stock.evaluate(indices(), LABELS, batch_size=3, verbose=0)
    np.testing.assert_allclose(own.evaluate(x, LABELS, batch_size=3, verbose=0), expected, rtol=1e-5)


def test_shuffled_and_split_text_keeps_its_labels(pair):
    """The same seed shuffles text in memory, text in a file, and their indices in the same order."""
    own, _ = pair
    weights = own.get_weights()
    histories = []
    for x in (np.array(TEXTS), on_disk(TEXTS)):
        own.set_weights(weights)
        own.compile("sgd", "binary_crossentropy")
        histories.append(own.fit(x, LABELS, batch_size=2, epochs=3, seed=5, validation_split=0.25, verbose=0).history)
    number = layergraph.Input((LENGTH,), dtype="int64")
    plain = layergraph.Model(number, tail(layergraph, number))
    plain.set_weights(weights)
    plain.compile("sgd", "binary_crossentropy")
    expected = plain.fit(indices(), LABELS, batch_size=2, epochs=3, seed=5, validation_split=0.25, verbose=0).history
    assert histories == [expected, expected]


def test_batches_of_text(pair):
    own, stock = pair
    loader = torch.utils.data.DataLoader(list(zip(TEXTS, LABELS, strict=True)), batch_size=4)
    got = own.fit(loader, epochs=2, verbose=0).history["loss"]
    expected = stock.fit(indices(), LABELS, batch_size=4, epochs=2, shuffle=False, verbose=0).history["loss"]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    batches = ((np.array(TEXTS[at : at + 4]), LABELS[at : at + 4]) for at in (0, 4))
    np.testing.assert_allclose(
        own.evaluate(batches, verbose=0), stock.evaluate(indices(), LABELS, verbose=0), rtol=1e-5
    )


def test_a_layer_that_gives_text():
    x = layergraph.Input((2,), dtype="int64")
    model = layergraph.Model(x, layers.StringLookup(vocabulary=["a", "ü"], invert=True)(x))
    rows = np.array([[1, 2], [0, 1], [2, 2]])
    expected = [[b"a", "ü".encode()], [b"[UNK]", b"a"], ["ü".encode()] * 2]
    for got in (model.predict(rows), model.predict(rows, batch_size=2), model.predict_on_batch(rows)):
        assert got.dtype == object
        assert got.tolist() == expected
    assert model.predict(rows[:0]).shape == (0, 2)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (np.zeros(8), "input 'text': got dtype float64, expected text"),
        ([1, 2, 3], "input 'text': got an element of type int, expected text or bytes"),
        (["a", None], "input 'text': got an element of type NoneType, expected text or bytes"),
        (
            [["a"], ["b", "c"]],
            "input 'text': rows have different lengths, expected an array: rows of one length, padded with ''",
        ),
        ("one", "input 'text': got a single text, expected an array with rows"),
        (["\ud800"], "input 'text': got text that can't be encoded as UTF-8"),
        (torch.zeros(3), "input 'text': got dtype float32, expected text"),
    ],
    ids=repr,
)
def test_what_is_no_text(pair, x, text):
    own, _ = pair
    for call in (own.predict, own.predict_on_batch, lambda x: own.fit(x, np.zeros(len(x)), verbose=0)):
        with pytest.raises(DataError) as caught:
            call(x)
        assert text in str(caught.value)


def test_text_is_no_number(pair):
    own, _ = pair
    with pytest.raises(DataError, match="labels of output 'answer': got dtype <U3, expected numbers"):
        own.fit(TEXTS, np.array(["yes"] * len(TEXTS)), verbose=0)


def test_an_element_that_a_layer_refuses():
    x = layergraph.Input((1,), dtype="string")
    model = layergraph.Model(x, layers.StringLookup(vocabulary=["a"], num_oov_indices=0)(x))
    with pytest.raises(ElementError, match="got 'b', expected a term of the vocabulary"):
        model.predict(["a", "b"])


def test_rows_of_a_file():
    text = on_disk(["", "a", "", "bcd", "ü", ""]).reshape((3, 2))
    assert text.take(slice(0, 3)).tolist() == [[b"", b"a"], [b"", b"bcd"], ["ü".encode(), b""]]
    assert text.take(torch.tensor([2, 0])).tolist() == [["ü".encode(), b""], [b"", b"a"]]
    assert text[1:].take(torch.tensor([1])).tolist() == [["ü".encode(), b""]]
    assert text[1:][1:].take(slice(0, 5)).tolist() == [["ü".encode(), b""]]
    assert (len(text[5:]), text[1:2].shape) == (0, (1, 2))
    assert text.reshape((3, 2, 1)).take(slice(1, 2)).tolist() == [[[b""], [b"bcd"]]]
    assert on_disk([]).take(slice(0, 1)).shape == (0,)
