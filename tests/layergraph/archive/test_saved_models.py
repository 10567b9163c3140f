"""SavedModel folders and checkpoints that TensorFlow 2.0 to 2.15 wrote."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from bundle_files import entry, field, graph, node, varint, write_bundle
from layergraph.archive import LoadLimits, open_archive
from layergraph.archive.files import FileWindow
from layergraph.archive.saved_model.constants import Constants
from layergraph.archive.saved_model.weights import TrackedWeights
from layergraph.errors import ConfigError, CorruptFileError, ModelFileError, UnsupportedModelError
from layergraph.models.loading import load_model
from model_files import numbered

FIXTURES = Path(__file__).parents[2] / "fixtures" / "saved_models"
RELEASES = ("tf20", "tf23", "tf26", "tf215")


def numbers(release: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / release / "numbers.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("kind", ["model", "checkpoint"])
def test_outputs_are_those_of_tensorflow(release: str, kind: str) -> None:
    arrays = numbers(release)
    model = load_model(FIXTURES / release / kind)
    (expected,) = numbered(arrays, "output")
    np.testing.assert_allclose(model.predict(numbered(arrays, "input"), verbose=0), expected, rtol=1e-5, atol=1e-6)
    assert model.compiled == (kind == "model")
    assert model.keras_version == {"tf20": "2.2.4-tf", "tf23": "2.4.0", "tf26": "2.6.0", "tf215": "2.15.0"}[release]


@pytest.mark.parametrize("release", RELEASES)
def test_training_goes_on_with_the_losses_of_tensorflow(release: str) -> None:
    arrays = numbers(release)
    model = load_model(FIXTURES / release / "model")
    losses = [
        model.train_on_batch(numbered(arrays, "input"), arrays["target"], return_dict=True)["loss"]
        for _ in arrays["losses"]
    ]
    np.testing.assert_allclose(losses, arrays["losses"], rtol=1e-5)
    assert model.optimizer.iterations == 3 + len(losses)


def write_folder(folder: Path, metadata: dict[str, Any], arrays: dict[str, np.ndarray], *nodes: bytes) -> Path:
    """A SavedModel folder of a model with this metadata, without TensorFlow's functions."""
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"")
    (folder / "keras_metadata.pb").write_bytes(field(1, field(3, "root") + field(5, json.dumps(metadata))))
    write_bundle(folder / "variables" / "variables", arrays, graph(*nodes))
    return folder


def sequential(*layers: dict[str, Any], **more: Any) -> dict[str, Any]:
    config = {"name": "s", "layers": list(layers)}
    return {"class_name": "Sequential", "config": config, "keras_version": "2.10.0", **more}


DENSE = {"class_name": "Dense", "config": {"name": "a", "units": 1, "batch_input_shape": [None, 2]}}
DENSE_NODES = node({"layer-0": 1}), node({"kernel": 2, "bias": 3}), node(key="k"), node(key="b")
DENSE_ARRAYS = {"k": np.ones((2, 1), "f4"), "b": np.zeros(1, "f4")}


def test_without_slots_the_optimizer_is_new(tmp_path: Path) -> None:
    optimizer = {"class_name": "Adam", "config": {"name": "Adam", "learning_rate": 0.5}}
    metadata = sequential(DENSE, training_config={"loss": "mse", "optimizer_config": optimizer})
    model = load_model(write_folder(tmp_path / "model", metadata, DENSE_ARRAYS, *DENSE_NODES))
    assert model.compiled
    assert model.optimizer_state is None
    model.fit(np.ones((4, 2)), np.zeros((4, 1)), verbose=0)
    assert model.optimizer is not None
    assert model.optimizer.iterations == 1
    np.testing.assert_allclose(model.get_weights()[0], [[0.5], [0.5]], atol=1e-5)


def test_a_model_with_a_custom_loss_is_served_and_training_names_it(tmp_path: Path) -> None:
    optimizer = {"class_name": "Adam", "config": {"name": "Adam", "learning_rate": 0.5}}
    metadata = sequential(DENSE, training_config={"loss": "<lambda>", "optimizer_config": optimizer})
    model = load_model(write_folder(tmp_path / "model", metadata, DENSE_ARRAYS, *DENSE_NODES))
    assert model.predict(np.ones((1, 2)), verbose=0).tolist() == [[2.0]]
    assert model.compiled
    assert model.compile_problem.startswith("unknown loss '<lambda>'")
    with pytest.raises(ConfigError, match=r"compile settings of its file, call compile.* unknown loss '<lambda>'"):
        model.fit(np.ones((4, 2)), np.zeros((4, 1)), verbose=0)
    model.compile("sgd", "mse")
    assert model.compile_problem == ""
    model.fit(np.ones((4, 2)), np.zeros((4, 1)), verbose=0)


def test_everything_that_is_wrong_with_a_folder_is_in_one_error(tmp_path: Path) -> None:
    """A data file is missing, the index is that of another model, and its slots are those of another optimizer."""
    optimizer = {"class_name": "Adam", "config": {"name": "Adam", "learning_rate": 0.5}}
    metadata = sequential(DENSE, training_config={"loss": "mse", "optimizer_config": optimizer})
    folder = write_folder(tmp_path / "model", metadata, {})
    slots = [(2, "rms", 6), (3, "rms", 7)]
    root = node({"layer-0": 1, "optimizer": 4})
    nodes = [root, *DENSE_NODES[1:], node({"iter": 5}, slots=slots), node(key="i"), node(key="r"), node(key="s")]
    arrays = {"k": (3, 1), "b": (4,), "i": (), "r": (3, 1), "s": (4,)}
    entries = {key: entry(1, shape, 0, bytes(4 * int(np.prod(shape))), shard=1) for key, shape in arrays.items()}
    prefix = folder / "variables" / "variables"
    write_bundle(prefix, {}, graph(*nodes), entries, header=field(1, 2) + field(2, 0))
    prefix.with_name("variables.data-00000-of-00001").rename(prefix.with_name("variables.data-00000-of-00002"))
    with pytest.raises(CorruptFileError) as caught:
        load_model(folder)
    missing, kernel, bias, state = caught.value.problems
    assert missing == "lacks 1 of its 2 data files: variables.data-00001-of-00002"
    assert "weight 'kernel' has shape (3, 1) in the file, expected (2, 1)" in kernel
    assert "weight 'bias' has shape (4,) in the file, expected (1,)" in bias
    assert state.startswith("the optimizer's state: ")
    # Without other problems, the missing file alone is reported, and so are all arrays that can't be described.
    entries = {**entries, "k": entry(1, (2, 1), 0, bytes(8), shard=1), "b": entry(1, (1,), 0, bytes(4), shard=1)}
    write_bundle(prefix, {}, graph(*DENSE_NODES), entries, header=field(1, 2) + field(2, 0))
    prefix.with_name("variables.data-00000-of-00001").replace(prefix.with_name("variables.data-00000-of-00002"))
    with pytest.raises(CorruptFileError) as caught:
        load_model(folder)
    assert caught.value.problems == (missing,)
    wrong = {key: entry(1, (2, 1), 0, bytes(8)) + field(7, b"") for key in "kb"}
    write_bundle(prefix, {}, graph(*DENSE_NODES), wrong)
    with pytest.raises(UnsupportedModelError) as refused:
        load_model(folder)
    assert ["partitioned" in text for text in refused.value.problems] == [True, True]


def optimizer_keys(
    folder: Path, optimizer: dict[str, int], slots: Sequence[tuple[int, str, int]], keys: str, skipped: int = 0
) -> str:
    """The order of an optimizer's variables, whose nodes follow those of the model."""
    root = node({"layer-0": 1, "optimizer": 4})
    nodes = [root, *DENSE_NODES[1:], node(optimizer, slots=slots), *(node(key=key) for key in keys)]
    listed = [node({str(index): 5 + index for index in range(skipped, len(keys))})]
    arrays = {**DENSE_ARRAYS, **dict.fromkeys(keys, np.zeros((), "f4"))}
    with open_archive(write_folder(folder, sequential(DENSE), arrays, *nodes, *listed)) as archive:
        return "".join(array.name for array in archive.optimizer_weights)


def test_the_order_of_optimizers_states(tmp_path: Path) -> None:
    """Weight 2 is the kernel, weight 3 the bias; slots may be listed in any order of the weights."""
    by_slot = [(3, "m", 6), (2, "m", 7), (3, "v", 8), (2, "v", 9)]
    assert optimizer_keys(tmp_path / "adam", {"iter": 5}, by_slot, "imnvw") == "inmwv"
    ftrl = [(3, "accumulator", 6), (2, "accumulator", 7), (3, "linear", 8), (2, "linear", 9)]
    assert optimizer_keys(tmp_path / "ftrl", {"iter": 5}, ftrl, "iabcd") == "ibdac"
    nadam = {"iter": 5, "momentum_cache": 6}
    assert optimizer_keys(tmp_path / "nadam", nadam, [(2, "m", 7), (2, "v", 8)], "icmv") == "icmv"
    # From TensorFlow 2.11, and in the experimental ones of 2.10, which don't list the iterations.
    assert optimizer_keys(tmp_path / "new", {"_variables": 8, "_iterations": 5}, [], "iab") == "iab"
    assert optimizer_keys(tmp_path / "experimental", {"_variables": 8, "_iterations": 5}, [], "iab", 1) == "iab"
    later = {"_iterations": 5, "_learning_rate": 6, "_u_product": 9, "_variables": 10}
    assert optimizer_keys(tmp_path / "product", later, [], "ilabu", 2) == "ilabu"
    assert optimizer_keys(tmp_path / "none", {}, [], "") == ""


@pytest.mark.parametrize("release", RELEASES[1:])
def test_vocabularies(release: str) -> None:
    """Of tables of a checkpoint (2.3) and constants of the graph (later)."""
    arrays = numbers(release)
    model = load_model(FIXTURES / release / "text")
    inputs = [array.astype("S") if array.dtype.kind == "U" else array for array in numbered(arrays, "text_input")]
    results = model.plan().run(dict(zip(model.input_names, inputs, strict=True)))
    for result, expected in zip(results.values(), numbered(arrays, "text_output"), strict=True):
        np.testing.assert_array_equal(result, expected)


def table_of(path: Path, initialize: int) -> Any:
    """The constants of a table, object 0 of a `saved_model.pb`, that object `initialize` makes."""
    numbers = field(1, 9) + field(2, field(2, field(1, 3))) + field(10, varint(2**64 - 1)) + field(10, 7)
    texts = field(1, 7) + field(2, field(2, field(1, 3))) + field(8, "a") + field(8, "b")
    tensors = {"keys": numbers, "values": texts}
    values = [
        field(1, field(1, name) + field(5, field(1, "value") + field(2, field(8, tensor))))
        for name, tensor in tensors.items()
    ]
    objects = [
        node({"_initialize": initialize}),
        field(6, field(1, "f")),
        *(field(9, field(1, name)) for name in tensors),
    ]
    bound = field(2, field(1, "f") + field(2, b"".join(field(2, place) for place in (0, 2, 3))))
    whole = field(2, b"".join(values)) + field(7, b"".join(field(1, one) for one in objects) + bound)
    path.write_bytes(field(2, whole))
    with path.open("rb") as file:
        return Constants(FileWindow(file.fileno(), 0, path.stat().st_size), path, LoadLimits()).table(0)


def test_terms_of_constants_may_be_below_zero_and_the_last_stands_for_those_that_follow(tmp_path: Path) -> None:
    assert table_of(tmp_path / "a.pb", 1) == ([-1, 7, 7], [b"a", b"b", b"b"])


@pytest.mark.parametrize("initialize", [4, 5, 2**40])
def test_a_table_that_is_made_by_no_object_has_no_constants(tmp_path: Path, initialize: int) -> None:
    assert table_of(tmp_path / "a.pb", initialize) is None


@pytest.mark.parametrize("release", ["tf26", "tf215"])
def test_weights_of_terms(release: str) -> None:
    """Variables beside the table, with those of the reserved indices, and of padding."""
    arrays = numbers(release)
    model = load_model(FIXTURES / release / "idf")
    inputs = [array.astype("S") for array in numbered(arrays, "idf_input")]
    results = model.plan().run(dict(zip(model.input_names, inputs, strict=True)))
    for result, expected in zip(results.values(), numbered(arrays, "idf_output"), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_a_vocabulary_that_was_read_from_a_file_is_an_asset(tmp_path: Path) -> None:
    options = {"name": "words", "vocabulary": "/elsewhere/terms.txt", "dtype": "string", "batch_input_shape": [None, 1]}
    metadata = sequential({"class_name": "StringLookup", "config": options})
    folder = write_folder(tmp_path / "model", metadata, {}, node({"layer-0": 1}), node())
    (tmp_path / "terms.txt").write_text("secret\n")
    with pytest.raises(UnsupportedModelError, match="files are never opened"):
        load_model(folder)
    (folder / "assets").mkdir()
    (folder / "assets" / "terms.txt").symlink_to(tmp_path / "terms.txt")
    with pytest.raises(UnsupportedModelError, match="files are never opened"):
        load_model(folder)
    (folder / "assets" / "terms.txt").unlink()
    for content in (b"cat\ndog\n", b"cat\r\ndog\r\n"):
        (folder / "assets" / "terms.txt").write_bytes(content)
        assert load_model(folder).layers[-1].vocabulary == ("cat", "dog")


def test_the_file_of_a_vocabulary_may_be_named_in_one_of_two_configs(tmp_path: Path) -> None:
    """As TensorFlow 2.15 writes them."""
    options = {"name": "words", "vocabulary": "terms.txt", "dtype": "string", "batch_input_shape": [None, 1]}
    unnamed = {**options, "vocabulary": None, "has_input_vocabulary": True}
    named, later = (sequential({"class_name": "StringLookup", "config": config}) for config in (options, unnamed))
    metadata = {**named, "model_config": {"class_name": "Sequential", "config": later["config"]}}
    folder = write_folder(tmp_path / "model", metadata, {}, node({"layer-0": 1}), node())
    (folder / "assets").mkdir()
    (folder / "assets" / "terms.txt").write_text("cat\ndog\n")
    assert load_model(folder).layers[-1].vocabulary == ("cat", "dog")


@pytest.mark.parametrize("release", RELEASES)
def test_what_is_no_graph_of_layers_is_refused_by_its_name(release: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"its model is of the class 'Subclassed'.*expected a Functional"):
        load_model(FIXTURES / release / "subclassed")
    version = {"tf20": "2.0.4", "tf23": "2.3.4", "tf26": "2.6.5", "tf215": "2.15.1"}[release]
    with pytest.raises(UnsupportedModelError, match=rf"tf\.saved_model\.save of TensorFlow {version}"):
        load_model(FIXTURES / release / "operations")


def test_the_folder_or_its_file_can_be_named() -> None:
    folder = FIXTURES / "tf215" / "model"
    assert load_model(folder / "saved_model.pb").count_params() == load_model(folder).count_params()
    with open_archive(folder) as archive:
        assert archive.path == folder / "saved_model.pb"
        assert isinstance(archive.weights, TrackedWeights)
        names = {path.name for path in archive.files}
    assert names == {"saved_model.pb", "keras_metadata.pb", "variables.index", "variables.data-00000-of-00001"}


def test_a_changed_shard_ends_the_optimizers_state(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "tf215" / "model", tmp_path / "model")
    model = load_model(tmp_path / "model")
    data = tmp_path / "model" / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes())
    with pytest.raises(CorruptFileError, match="was replaced since the model was loaded"):
        _ = model.optimizer


def test_metadata_is_checked(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "tf215" / "model", tmp_path / "model")
    path = tmp_path / "model" / "keras_metadata.pb"
    data = path.read_bytes()
    for changed, said in (
        (data[:100], "isn't a protobuf message of a SavedModel"),
        (b"", "is a SavedModel of tf.saved_model.save"),
        (data.replace(b'{"name"', b'["name"', 1), "isn't valid JSON"),
    ):
        path.write_bytes(changed)
        with pytest.raises(ModelFileError, match=r"^keras_metadata\.pb: ") as caught:
            load_model(tmp_path / "model")
        assert said in str(caught.value)


def test_fields_that_arent_known_are_skipped(tmp_path: Path) -> None:
    """Later releases may write more than nodes, before them too."""
    folder = write_folder(tmp_path / "model", sequential(DENSE), DENSE_ARRAYS, *DENSE_NODES)
    path = folder / "keras_metadata.pb"
    path.write_bytes(field(2, "more") + field(1, 7) + path.read_bytes())
    assert load_model(folder).predict(np.ones((1, 2)), verbose=0).tolist() == [[2.0]]


def test_a_saved_folder_becomes_a_file(tmp_path: Path) -> None:
    arrays = numbers("tf215")
    model = load_model(FIXTURES / "tf215" / "model")
    for name, generation in (("model.keras", 3), ("model.h5", 2)):
        model.save(tmp_path / name, generation=generation)
        result = load_model(tmp_path / name).predict(numbered(arrays, "input"), verbose=0)
        np.testing.assert_allclose(result, arrays["output_0"], rtol=1e-5, atol=1e-6)
    with h5py.File(tmp_path / "model.h5") as file:
        config = str(file.attrs["model_config"])
    # Keras doesn't write tuples as objects there.
    assert "__tuple__" not in config


def test_the_architecture_of_another_model_is_named(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "tf215" / "checkpoint", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "model.json").read_text())
    config["config"]["layers"] = config["config"]["layers"][:1]
    config["config"]["output_layers"] = [[config["config"]["layers"][0]["name"], 0, 0]]
    config["config"]["input_layers"] = config["config"]["output_layers"]
    (tmp_path / "model" / "model.json").write_text(json.dumps(config))
    with pytest.raises(CorruptFileError, match="the file has weights of"):
        load_model(tmp_path / "model")
