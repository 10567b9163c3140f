"""Models from Keras 2 files are saved as in their files, except for what has changed since."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import h5py
import layergraph
import numpy as np
import pytest
from compiled_models import recommender, rows
from layergraph.errors import ConfigError, DataError
from model_files import FIXTURES, check_fixture
from oracles import assert_close

FUNCTIONS = FIXTURES.parent / "tensorflow_functions"
NODES = FIXTURES.parent / "tensorflow_nodes"
ZIPPED = sorted([*FIXTURES.glob("*.keras"), *FUNCTIONS.glob("*.keras"), *FIXTURES.parent.glob("keras2*.keras")])


def model_config(path: Path) -> Any:
    with h5py.File(path) as file:
        return json.loads(file.attrs["model_config"])


def zipped(path: Path) -> tuple[Any, Any, dict[str, np.ndarray]]:
    """Version, config, and the arrays of the layers by group, from a `.keras` file."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        metadata, config = json.loads(archive.read("metadata.json")), json.loads(archive.read("config.json"))
        with archive.open("model.weights.h5") as weights, h5py.File(weights) as file:
            assert "vars" in file
            file.visititems(
                lambda name, item: arrays.update({name: item[()]} if isinstance(item, h5py.Dataset) else {})
            )
    # Compile arguments are tested elsewhere.
    of_layers = {name: array for name, array in arrays.items() if not re.search(r"(^|/)(optimizer|metrics)/", name)}
    return metadata["keras_version"], {**config, "compile_config": None}, of_layers


def without_numbers(config: Any) -> Any:
    """Without the ids of objects inside of an object that has an id."""
    if isinstance(config, list):
        return [without_numbers(item) for item in config]
    if isinstance(config, dict):
        return {key: without_numbers(item) for key, item in config.items() if key != "shared_object_id"}
    return config


def saved(model: Any, folder: Path) -> Any:
    model.save(folder / "m.h5")
    return model_config(folder / "m.h5")


def layers(config: Any) -> dict[str, Any]:
    return {layer["name"]: layer for layer in config["config"]["layers"]}


@pytest.mark.parametrize("path", sorted([*FUNCTIONS.glob("*.h5"), *NODES.glob("*.h5")]), ids=lambda path: path.stem)
def test_functions_of_tensorflow_stay_as_they_are(path: Path, tmp_path: Path) -> None:
    assert saved(layergraph.load_model(path), tmp_path) == model_config(path)


@pytest.mark.parametrize("path", sorted((FIXTURES.parent / "old_keras").glob("2.*.h5")), ids=lambda path: path.stem)
def test_a_model_goes_back_to_its_own_release(path: Path, tmp_path: Path) -> None:
    assert saved(layergraph.load_model(path), tmp_path) == model_config(path)
    with h5py.File(path) as before, h5py.File(tmp_path / "m.h5") as after:
        assert after.attrs["keras_version"] == before.attrs["keras_version"]


@pytest.mark.parametrize("path", ZIPPED, ids=lambda path: path.stem)
def test_a_keras_file_of_keras_2_stays_as_it_is(path: Path, tmp_path: Path) -> None:
    layergraph.load_model(path).save(tmp_path / "m.keras")
    version, config, arrays = zipped(tmp_path / "m.keras")
    expected_version, expected_config, expected = zipped(path)
    assert (version, without_numbers(config)) == (expected_version, without_numbers(expected_config))
    # 2.15 creates layers that aren't marked as shared twice, but stores the arrays of one of them only.
    twice = path.stem in ("cut_out", "frozen")
    assert arrays.keys() >= expected.keys() if twice else arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array)


@pytest.mark.parametrize("generation", [2, 3])
def test_early_classes_become_options_of_others_in_a_keras_file(generation: int, tmp_path: Path) -> None:
    path = FIXTURES.parent / "early_classes.keras"
    layergraph.load_model(path).save(tmp_path / "m.keras", generation=generation)
    written = (tmp_path / "m.keras").rename(tmp_path / path.name)
    shutil.copy(path.with_suffix(".npz"), tmp_path)
    check_fixture(written)
    _, config, arrays = zipped(written)
    kinds = [layer["class_name"] for layer in config["config"]["layers"]]
    assert kinds == ["InputLayer", "LSTM", "LSTM", "GRU", "Bidirectional", "BatchNormalization", "BatchNormalization"]
    pair = next(layer for layer in config["config"]["layers"] if layer["class_name"] == "Bidirectional")
    assert pair["config"]["layer"]["class_name"] == "GRU"
    assert arrays["layers/lstm_1/cell/vars/2"].shape == (8,)
    assert arrays["layers/bidirectional/backward_layer/cell/vars/2"].shape == (2, 6)
    assert "layers/batch_normalization_1/vars/3" in arrays


def test_an_h5_of_keras_2_becomes_a_keras_file(tmp_path: Path) -> None:
    model = layergraph.load_model(FIXTURES / "headline.h5")
    model.save(tmp_path / "three.keras")
    model.save(tmp_path / "two.keras", generation=2)
    assert zipped(tmp_path / "three.keras")[0] == "3.15.0"
    version, config, arrays = zipped(tmp_path / "two.keras")
    expected = zipped(FIXTURES / "headline.keras")
    assert (version, config["module"], config["registered_name"]) == (
        "2.15.0",
        expected[1]["module"],
        expected[1]["registered_name"],
    )
    assert layers(config).keys() == layers(expected[1]).keys()
    assert {name: array.shape for name, array in arrays.items()} == {n: a.shape for n, a in expected[2].items()}


def test_what_has_changed_is_written(tmp_path: Path) -> None:
    path = FIXTURES / "headline.h5"
    before = layers(model_config(path))
    model = layergraph.load_model(path)
    dense, lstm = model.get_layer("main_output"), model.get_layer("lstm")
    dense.trainable = False
    lstm.name = "words"
    after = layers(saved(model, tmp_path))
    assert after["main_output"]["config"] == {**before["main_output"]["config"], "trainable": False}
    assert after["words"]["config"] == {**before["lstm"]["config"], "name": "words"}
    assert {**after["words"], "name": "lstm", "config": before["lstm"]["config"]} == before["lstm"]
    renamed = json.dumps(before).replace('["lstm", 0, 0', '["words", 0, 0')
    unchanged = before.keys() - {"main_output", "lstm"}
    assert {name: after[name] for name in unchanged} == {name: json.loads(renamed)[name] for name in unchanged}


def test_an_option_that_has_changed_is_written(tmp_path: Path) -> None:
    model = layergraph.load_model(FIXTURES / "headline.h5")
    model.get_layer("main_output").activation = layergraph.layers.Activation("tanh").activation
    after = layers(saved(model, tmp_path))
    assert after["main_output"]["config"]["activation"] == "tanh"
    assert "batch_shape" not in json.dumps(after)


def test_layers_in_wrappers_are_frozen(tmp_path: Path) -> None:
    path = FIXTURES / "recurrent.h5"
    model = layergraph.load_model(path)
    wrapped = [layer for layer in model.layers if type(layer).__name__ in ("Bidirectional", "RNN", "TimeDistributed")]
    assert wrapped
    for layer in wrapped:
        for inner in layer.sublayers.values():
            inner.trainable = False
    after = layers(saved(model, tmp_path))
    for layer in wrapped:
        config = after[layer.name]["config"]
        inside = config.get("layer") or config["cell"]
        assert (config["trainable"], inside["config"]["trainable"]) == (True, False)
    assert [w.trainable for w in layergraph.load_model(tmp_path / "m.h5").weights] == [
        w.trainable for w in model.weights
    ]


def test_a_part_of_a_model_is_written(tmp_path: Path) -> None:
    model = layergraph.load_model(FUNCTIONS / "functions_shapes.h5")
    before = layers(model_config(FUNCTIONS / "functions_shapes.h5"))
    part = layergraph.Model(model.inputs, model.outputs[3])
    part.save(tmp_path / "m.h5", generation=2)
    after = layers(model_config(tmp_path / "m.h5"))
    assert len(after) < len(before)
    assert after == {name: before[name] for name in after}


def test_what_keras_2_lacks_is_refused_by_name(tmp_path: Path) -> None:
    model = layergraph.load_model(FIXTURES / "headline.h5")
    added = layergraph.layers.RMSNormalization(name="late")(model.outputs[0])
    longer = layergraph.Model(model.inputs, [added, model.outputs[0] + 1.0])
    with pytest.raises(ConfigError, match=r"a \.h5 file of Keras 2 can't store .*'late'.*Add.*save it for Keras 3"):
        longer.save(tmp_path / "m.h5", generation=2)
    with pytest.raises(ConfigError, match="got generation 4, expected 2 or 3"):
        longer.save(tmp_path / "m.h5", generation=4)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_vocabulary_beside_the_config_goes_into_it(suffix: str, tmp_path: Path) -> None:
    text = FIXTURES.parent / "text"
    told = json.loads((text / "keras2_model.json").read_text())
    layergraph.load_model(text / "keras2.keras").save(tmp_path / f"m{suffix}")
    config = zipped(tmp_path / "m.keras")[1] if suffix == ".keras" else model_config(tmp_path / "m.h5")
    lookups = [one["config"] for one in config["config"]["layers"] if "vocabulary" in one["config"]]
    assert len(lookups) == 6
    for lookup in lookups:
        assert len(lookup["vocabulary"]) in (lookup["vocabulary_size"], lookup["vocabulary_size"] - 1)
        assert lookup["idf_weights"] is None or len(lookup["idf_weights"]) == len(lookup["vocabulary"])
    again = layergraph.load_model(tmp_path / f"m{suffix}")
    result = again.plan().run({name: np.array(told["inputs"][name]) for name in again.input_names})
    for got, want in zip(list(result.values())[:6], told["outputs"], strict=False):
        np.testing.assert_allclose(got, want["values"], rtol=1e-5)


def test_a_vocabulary_of_a_saved_model_is_an_option_of_the_layer(tmp_path: Path) -> None:
    """Keras 2 can't open an .h5 whose lookups have a vocabulary, but `has_input_vocabulary: false`."""
    layergraph.load_model(FIXTURES.parent / "saved_models" / "tf215" / "text").save(tmp_path / "m.h5")
    config = model_config(tmp_path / "m.h5")
    lookups = [one["config"] for one in config["config"]["layers"] if one["config"].get("vocabulary")]
    assert lookups
    assert [one["has_input_vocabulary"] for one in lookups] == [True] * len(lookups)


def test_tensorflow_1_writes_a_type_into_initializers(tmp_path: Path) -> None:
    """As 1.14 does for each initializer; its files are loaded, and saved with it."""
    path = shutil.copy(FIXTURES / "dense.h5", tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            for key, value in layer["config"].items():
                if key.endswith("_initializer"):
                    value["config"]["dtype"] = "float32"
        file.attrs["model_config"] = json.dumps(config)
        del file.attrs["training_config"], file["optimizer_weights"]
        file.attrs["keras_version"] = file["model_weights"].attrs["keras_version"] = "2.2.4-tf"
    layergraph.load_model(path).save(tmp_path / "home.h5")
    with h5py.File(tmp_path / "home.h5") as file:
        assert json.loads(file.attrs["model_config"]) == config


def test_a_legacy_state_without_weights_that_no_gradient_reached_is_taken(tmp_path: Path) -> None:
    """Keras 2 up to 2.10 has no state for weights that only outputs without a loss depend on."""
    model = recommender(layergraph)
    optimizer = {"class_name": "Adam", "config": {"learning_rate": 0.01, "decay": 0.0}}
    model.compile(optimizer, [None, "mse"])
    model.fit(*rows(model), epochs=2, verbose=0, shuffle=False)
    model.save(tmp_path / "m.h5", generation=2)
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        group = file["optimizer_weights"]
        names = group.attrs["weight_names"]
        group.attrs["weight_names"] = [name for name in names if b"click" not in name]
        assert len(group.attrs["weight_names"]) == len(names) - 4
    again = layergraph.load_model(tmp_path / "m.h5")
    want = model.fit(*rows(model), epochs=2, verbose=0, shuffle=False).history["loss"]
    assert again.fit(*rows(model), epochs=2, verbose=0, shuffle=False).history["loss"] == pytest.approx(want, rel=1e-6)
    for got, expected in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-5, atol=1e-7)
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        file["optimizer_weights"].attrs["weight_names"] = names[:-3]
    with pytest.raises(DataError, match=r"call compile\(optimizer=.*: optimizer 'legacy_adam'"):
        layergraph.load_model(tmp_path / "m.h5").fit(*rows(model), epochs=1, verbose=0)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_states_of_cudnn_layers_are_those_of_the_ordinary_ones(suffix: str, tmp_path: Path) -> None:
    """In files of tf.keras 2.15, which have Adam's two slots of each weight together."""
    path = FIXTURES.parent / f"early_states{suffix}"
    layergraph.load_model(path).save(tmp_path / "m.keras")
    with np.load(path.with_suffix(".npz")) as arrays:
        for model in (layergraph.load_model(path), layergraph.load_model(tmp_path / "m.keras")):
            logs = model.fit(arrays["x"], arrays["y"], batch_size=4, epochs=3, shuffle=False, verbose=0).history
            assert_close(np.array(logs["loss"]), arrays["losses"])


#: A Hashing without a key, as TensorFlow 2.4 writes it, and as 2.15 writes one with that key; what each computes.
UNSALTED = {"name": "h", "trainable": True, "dtype": "float32", "num_bins": 7, "salt": [0xDECAFCAFFE, 0xDECAFCAFFE]}
SALTED = {**UNSALTED, "dtype": "int64", "mask_value": None, "output_mode": "int", "sparse": False}


@pytest.mark.parametrize(
    ("version", "config", "salt", "buckets"),
    [("2.4.0", UNSALTED, None, [6, 5, 2, 5, 2]), ("2.15.0", SALTED, UNSALTED["salt"], [6, 5, 4, 2, 0])],
)
def test_a_key_that_early_releases_write_for_a_hashing_without_one_is_none(
    tmp_path: Path, version: str, config: dict[str, Any], salt: Any, buckets: list[int]
) -> None:
    shape = {"batch_input_shape": [None, 1], "dtype": "string", "sparse": False, "ragged": False, "name": "x"}
    layers_of_it = [
        {"class_name": "InputLayer", "config": shape, "name": "x", "inbound_nodes": []},
        {"class_name": "Hashing", "config": config, "name": "h", "inbound_nodes": [[["x", 0, 0, {}]]]},
    ]
    content = {"name": "m", "layers": layers_of_it, "input_layers": [["x", 0, 0]], "output_layers": [["h", 0, 0]]}
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": content})
        file.attrs["keras_version"], file.attrs["backend"] = version, "tensorflow"
        file.create_group("model_weights").attrs["layer_names"] = []
    model = layergraph.load_model(tmp_path / "old.h5")
    texts = np.array([["2026-11-12"], ["a"], ["b"], ["c"], ["d"]])
    assert model.predict(texts).ravel().tolist() == buckets
    assert layers(saved(model, tmp_path))["h"]["config"]["salt"] == salt
