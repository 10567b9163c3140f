"""Categories and text against TensorFlow 2.15 and Keras 3 (fixtures/make_text_layers.py), and text through plans."""

from __future__ import annotations

import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import layergraph
import numpy as np
import pytest
import torch
from keras.src.layers.preprocessing.discretization import get_bin_boundaries
from layergraph import layers
from layergraph.errors import ConfigError, DataError, GraphError, UnsupportedModelError
from layergraph.functional.strings import Strings
from layergraph.layers.preprocessing.hashes import fingerprint64, joined, siphash
from layergraph.layers.table import LAYERS
from oracles import keras

FOLDER = Path(__file__).parents[2] / "fixtures" / "text"


@dataclass
class TextCase:
    """A layer with options, its inputs, and the results of Keras on TensorFlow."""

    generation: str
    class_name: str
    config: dict[str, Any]
    inputs: list[Any]
    output: dict[str, Any]

    def __str__(self) -> str:
        options = ",".join(f"{k}={v}" for k, v in self.config.items() if k != "vocabulary")
        return f"{self.generation}-{self.class_name}({options})@{np.shape(self.inputs[0])}"


CASES = [
    TextCase(generation, **case)
    for generation in ("keras2", "keras3")
    for case in json.loads((FOLDER / f"{generation}.json").read_text())
]


def array(values: Any) -> np.ndarray:
    made = np.array(values)
    return made.astype("float32") if made.dtype.kind == "f" else made


def plain(result: np.ndarray) -> np.ndarray:
    """Bytes as text, for comparison."""
    return np.array([x.decode() for x in result.ravel()]).reshape(result.shape) if result.dtype == object else result


def symbolic(x: np.ndarray) -> Any:
    return layergraph.Input(x.shape[1:], dtype="string" if x.dtype.kind == "U" else x.dtype.name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_gives_tensorflow_numbers(case: TextCase) -> None:
    arrays = [array(x) for x in case.inputs]
    inputs = [symbolic(x) for x in arrays]
    config = dict(case.config)
    if case.generation == "keras2" and case.class_name == "Discretization" and config["output_mode"] == "int":
        # Configs written by tf.keras.
        config["dtype"] = "int64"
    layer = LAYERS[case.class_name].from_config(config)
    output = layer(inputs if len(inputs) > 1 else inputs[0])
    model = layergraph.Model(inputs, output)
    (result,) = model.plan().run(dict(zip(model.input_names, arrays, strict=True))).values()
    want = np.array(case.output["values"])
    if output.dtype == "string":
        np.testing.assert_array_equal(plain(result), want)
    else:
        np.testing.assert_allclose(result, want, rtol=1e-5, atol=1e-4 if want.max(initial=0) > 100 else 1e-6)
    assert len(output.shape) == result.ndim
    assert all(known in (None, length) for known, length in zip(output.shape, result.shape, strict=True))
    if getattr(layer, "output_mode", "int") == "int":
        assert output.dtype == case.output["dtype"]


@pytest.mark.parametrize("generation", ["keras2", "keras3"])
def test_files_with_learned_vocabularies_give_their_numbers(generation: str, tmp_path: Path) -> None:
    told = json.loads((FOLDER / f"{generation}_model.json").read_text())
    model = layergraph.load_model(FOLDER / f"{generation}.keras")
    again = tmp_path / "again.keras"
    model.save(again)
    for loaded in (model, layergraph.load_model(again)):
        results = loaded.plan().run({name: array(values) for name, values in told["inputs"].items()})
        assert len(results) == len(told["outputs"])
        for got, want in zip(results.values(), told["outputs"], strict=True):
            np.testing.assert_allclose(got, np.array(want["values"]), rtol=1e-5, atol=1e-6)


NUMBERS = np.random.default_rng(0).integers(0, 5, (4, 3)).astype("int32")


@pytest.mark.parametrize("mode", ["one_hot", "multi_hot", "count"])
@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (4, 2, 3)])
def test_encoding_gives_keras_numbers(mode: str, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).integers(0, 5, shape).astype("int32")
    ours = layers.CategoryEncoding(num_tokens=5, output_mode=mode)(x)
    theirs = keras.layers.CategoryEncoding(num_tokens=5, output_mode=mode)(x)
    np.testing.assert_array_equal(ours.numpy(), keras.ops.convert_to_numpy(theirs))


def test_counts_can_be_weighed() -> None:
    weights = np.random.default_rng(1).uniform(0, 1, (4, 3)).astype("float32")
    ours = layers.CategoryEncoding(5, "count")(NUMBERS, count_weights=weights)
    theirs = keras.layers.CategoryEncoding(num_tokens=5, output_mode="count")(NUMBERS, count_weights=weights)
    np.testing.assert_allclose(ours.numpy(), keras.ops.convert_to_numpy(theirs), rtol=1e-6)


def test_hashes_are_googles() -> None:
    # Test vectors of farmhash and SipHash.
    assert fingerprint64(b"") == 0x9AE16A3B2F90404F
    key = tuple(int.from_bytes(bytes(range(i, i + 8)), "little") for i in (0, 8))
    assert siphash(bytes(range(15)), key) == 0xA129CA6149BE45E5
    assert joined(1, 2) != joined(2, 1)


#: TensorFlow 2.15's tf.fingerprint of bytes 11, 48, 85, ..., by their number.
FINGERPRINTS = {
    1: 0x4271B80E2915C76A,
    3: 0x373A2B2A12E0C581,
    4: 0xCC1E778137AE6D69,
    7: 0x960838FBC6D9C975,
    8: 0x7D507025ED4EECFD,
    9: 0xDAEBBBB958304DDE,
    16: 0xD836480326A974D6,
    17: 0x5CDED6CB65C9DAC6,
    32: 0xA03300E1B2BE6DA7,
    33: 0x839154CA67815696,
    48: 0x698F96261BC531D3,
    63: 0x7CF64A4BD1B2B67E,
    64: 0x000F03EAC52D3535,
    65: 0xFB360C5023F60DB6,
    127: 0xD70E348FCBF64D04,
    128: 0x33EF435F17AF1739,
    129: 0xC30A81B637D2E4DD,
    192: 0xE277D6AD7892DD23,
    200: 0x51320A19A60CBD6E,
}


@pytest.mark.parametrize("size", FINGERPRINTS)
def test_texts_of_any_length_are_hashed_as_in_tensorflow(size: int) -> None:
    assert fingerprint64(bytes((37 * i + 11) % 256 for i in range(size))) == FINGERPRINTS[size]


@pytest.mark.parametrize("bins", [1, 2, 3, 4, 9])
def test_boundaries_are_those_that_keras_finds(bins: int) -> None:
    """Also with fewer values than bins."""
    summary = np.array([[1.0, 2.0, 4.0], [1.0, 2.0, 1.0]], "float32")
    found = layers.Discretization(num_bins=bins)._quantiles(summary)
    np.testing.assert_allclose(found, get_bin_boundaries(summary, bins), rtol=1e-6)


def test_text_goes_in_and_out() -> None:
    words = layergraph.Input((2,), dtype="string", name="words")
    places = layers.StringLookup(vocabulary=["ja", "über"])(words)
    model = layergraph.Model(
        words,
        [
            layers.Identity(name="same")(words),
            layers.StringLookup(vocabulary=["ja", "über"], invert=True, name="back")(places),
        ],
    )
    assert [spec.dtype for spec in model.input_specs + model.output_specs] == ["string"] * 3
    for given in (np.array([["über", "?"], ["ja", ""]]), np.array([[b"\xc3\xbcber", b"?"], [b"ja", b""]], object)):
        results = model.plan().run({"words": given})
        assert results["same"].dtype == object
        assert plain(results["same"]).tolist() == [["über", "?"], ["ja", ""]]
        assert plain(results["back"]).tolist() == [["über", "[UNK]"], ["ja", "[UNK]"]]


def test_text_goes_into_nested_models() -> None:
    words = layergraph.Input((1,), dtype="string")
    inner = layergraph.Model(words, layers.Embedding(4, 2)(layers.StringLookup(vocabulary=["a", "b"])(words)))
    top = layergraph.Input((1,), dtype="string", name="words")
    model = layergraph.Model(top, layers.Flatten(name="y")(inner(top)))
    assert model.plan().run({"words": np.array([["a"], ["c"]])})["y"].shape == (2, 2)


def test_no_rows_give_no_rows() -> None:
    x = layergraph.Input((1,), dtype="string", name="x")
    outputs = {
        "a": layers.TextVectorization(vocabulary=["a"])(x),
        "b": layers.StringLookup(vocabulary=["a"], output_mode="multi_hot")(x),
        "c": layers.Hashing(3)(x),
    }
    results = layergraph.Model(x, outputs).plan().run({"x": np.empty((0, 1), object)})
    assert {name: result.shape for name, result in results.items()} == {"a": (0, 0), "b": (0, 2), "c": (0, 1)}


def test_rows_are_joined_only_where_they_do_not_change_each_other() -> None:
    x = layergraph.Input((1,), dtype="string")
    for options, joined_rows in [({}, False), ({"output_sequence_length": 4}, True), ({"output_mode": "count"}, True)]:
        model = layergraph.Model(x, layers.TextVectorization(vocabulary=["a"], **options)(x))
        assert model.plan().batched is joined_rows, options
    wrapped = layergraph.Model(x, layergraph.Model(x, layers.TextVectorization(vocabulary=["a"])(x))(x))
    assert not wrapped.plan().batched


def test_many_threads_get_their_own_words() -> None:
    x = layergraph.Input((1,), dtype="string", name="x")
    plan = layergraph.Model(x, layers.StringLookup(vocabulary=[str(i) for i in range(50)], name="y")(x)).plan()
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda i: int(plan.run({"x": np.array([[str(i % 50)]])})["y"][0, 0]), range(200)))
    assert results == [i % 50 + 1 for i in range(200)]


def test_saved_layers_are_their_configs() -> None:
    for layer in (
        layers.StringLookup(vocabulary=["a", "b"], mask_token="", num_oov_indices=2),
        layers.IntegerLookup(vocabulary=[5, 6], oov_method="farmhash", salt=3, num_oov_indices=2),
        layers.TextVectorization(vocabulary=["a"], output_mode="tf_idf", idf_weights=[0.5]),
        layers.Hashing(3, salt=4, mask_value="x"),
        layers.HashedCrossing(3),
        layers.Discretization([0.0, 1.0]),
        layers.CategoryEncoding(4),
    ):
        again = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
        assert again.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: layers.StringLookup(vocabulary="/etc/passwd"), "files are never opened"),
        (lambda: layers.TextVectorization(vocabulary="https://x/y"), "files are never opened"),
        (lambda: layers.StringLookup(vocabulary=["a", "a"]), "has a repeated term"),
        (lambda: layers.StringLookup(vocabulary=["b", "", "a"], mask_token=""), "reserved"),
        (lambda: layers.StringLookup(vocabulary=["a", 3]), "holds 3, expected text"),
        (lambda: layers.StringLookup(vocabulary=["\ud800"]), "expected text"),
        (lambda: layers.StringLookup(vocabulary=[]), "is empty"),
        (lambda: layers.IntegerLookup(vocabulary=[2**63]), "expected integers"),
        (lambda: layers.IntegerLookup(vocabulary=[1], salt=2), "option 'salt'"),
        (lambda: layers.StringLookup(vocabulary=["a", "b"], max_tokens=2), "expected at most 2"),
        (lambda: layers.StringLookup(output_mode="int", idf_weights=[1.0]), "option 'output_mode'"),
        (lambda: layers.StringLookup(vocabulary=["a"], output_mode="tf_idf"), "option 'idf_weights'"),
        (lambda: layers.StringLookup(vocabulary=["a"], output_mode="tf_idf", idf_weights=[1, 2]), "has 2 numbers"),
        (lambda: layers.StringLookup(invert=True, output_mode="count"), "'invert' is set"),
        (lambda: layers.StringLookup(pad_to_max_tokens=True), "option 'max_tokens'"),
        (lambda: layers.StringLookup(sparse=True), "sparse outputs are not supported"),
        (lambda: layers.TextVectorization(ragged=True), "ragged outputs are not supported"),
        (lambda: layers.TextVectorization(standardize="upper"), "option 'standardize'"),
        (lambda: layers.TextVectorization(ngrams=0), "option 'ngrams'"),
        (lambda: layers.TextVectorization(output_mode="count", output_sequence_length=3), "output_sequence_length"),
        (lambda: layers.Hashing(0), "option 'num_bins' is 0"),
        (lambda: layers.Hashing(3, salt=[1, 2, 3]), "option 'salt'"),
        (lambda: layers.Hashing(3, mask_value="\ud800"), "option 'mask_value'"),
        (
            lambda: layers.Hashing(3, mask_value="x")(layergraph.Input((1,), dtype="int64")),
            "an integer for inputs of numbers",
        ),
        (lambda: layers.Hashing(3, mask_value="9" * 5000)(layergraph.Input((1,))), "an integer for inputs of numbers"),
        (lambda: layers.Hashing(3, dtype="float32"), "option 'dtype'"),
        (lambda: layers.Discretization(), "both missing"),
        (lambda: layers.Discretization([1.0, 0.0]), "expected increasing numbers"),
        (lambda: layers.CategoryEncoding(3, "int"), "option 'output_mode'"),
    ],
)
def test_wrong_options_are_named(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def test_data_that_does_not_fit_is_refused() -> None:
    text = layergraph.Input((1,), dtype="string", name="text")
    plan = layergraph.Model(text, layers.StringLookup(vocabulary=["a"], num_oov_indices=0)(text)).plan()
    with pytest.raises(DataError, match="got 'b', expected a term of the vocabulary"):
        plan.run({"text": np.array([["b"]])})
    with pytest.raises(DataError, match="input 'text': got int64, expected string"):
        plan.run({"text": np.array([[1]])})
    with pytest.raises(DataError, match="element of type int"):
        plan.run({"text": np.array([[1]], object)})
    with pytest.raises(DataError, match="expected 0 to 2"):
        layers.CategoryEncoding(3)(np.array([[3]]))
    with pytest.raises(DataError, match="got 9, expected a term"):
        layers.IntegerLookup(vocabulary=[3], num_oov_indices=0)(np.array([[3], [9]]))
    empty = layergraph.Model(text, layers.StringLookup()(text)).plan()
    with pytest.raises(DataError, match="has no vocabulary"):
        empty.run({"text": np.array([["b"]])})


def test_calls_that_do_not_fit_are_refused() -> None:
    text, number = layergraph.Input((2,), dtype="string"), layergraph.Input((2,))
    for layer, x in [
        (layers.StringLookup(vocabulary=["a"]), number),
        (layers.TextVectorization(vocabulary=["a"]), number),
        (layers.TextVectorization(vocabulary=["a"]), text),
        (layers.HashedCrossing(3), [text, text]),
        (layers.HashedCrossing(3), text),
        (layers.Dense(3), text),
        (layers.Embedding(3, 2), text),
        (layers.IntegerLookup(vocabulary=[3]), text),
        (layers.StringLookup(vocabulary=["a"], invert=True), text),
        (layers.StringLookup(output_mode="count"), text),
    ]:
        with pytest.raises(GraphError):
            layer(x)


def test_a_vocabulary_that_is_none_is_refused(tmp_path: Path) -> None:
    source = FOLDER / "keras2.keras"
    for content in (b"-1\nx\n", b"-1\n4\n4\n", b"\n"):
        path = tmp_path / "bad.keras"
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                new.writestr(name, content if "integer_lookup/" in name else old.read(name))
        with pytest.raises(UnsupportedModelError, match="vocabulary"):
            layergraph.load_model(path)


def test_strings_have_values_only_where_they_were_given() -> None:
    assert Strings.of(np.array([["a", "b"]])).reshape(2, 1).values.tolist() == [[b"a"], [b"b"]]
    with pytest.raises(DataError, match="only its shape is known"):
        _ = Strings((2,)).values
    assert layers.StringLookup(vocabulary=["a"])(np.array(["a"])).tolist() == [1]
    assert isinstance(layers.Hashing(3)(np.array([1])), torch.Tensor)


def test_document_frequencies_of_an_h5_of_keras_3(tmp_path):
    """They are in the config alone, and have to be saved like that, or Keras 3 can't open the file again."""
    with np.load(FOLDER / "keras3_idf.npz") as arrays:
        given, expected = {"ids": arrays["ids"], "text": arrays["text"]}, arrays["output"]
    model = layergraph.load_model(FOLDER / "keras3_idf.h5")
    np.testing.assert_allclose(model.predict(given), expected, atol=1e-6)
    model.save(tmp_path / "again.h5")
    np.testing.assert_allclose(layergraph.load_model(tmp_path / "again.h5").predict(given), expected, atol=1e-6)
    with h5py.File(tmp_path / "again.h5") as file:
        held = {name: len(group.attrs["weight_names"]) for name, group in file["model_weights"].items()}
    assert {name for name, count in held.items() if count} == {"answer"}
