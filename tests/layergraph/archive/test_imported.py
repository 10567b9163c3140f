"""Models from what another process has read of their files."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path
from typing import Any

import h5py
import layergraph
import numpy as np
import pytest
from imported_models import imported_model, mapped_model
from layergraph.archive import open_archive
from layergraph.archive.hdf5 import OWN_OPTIMIZER_GROUP
from layergraph.archive.imported.form import ARRAYS, DESCRIPTION, error_fields, raised
from layergraph.archive.imported.writing import describe
from layergraph.archive.safetensors_file import Entry, write_safetensors
from layergraph.errors import CorruptFileError, ModelFileError
from safetensors import safe_open

FIXTURES = Path(__file__).parents[2] / "fixtures"
#: A file or folder of each layout of weights, with and without optimizer, with vocabularies in each place.
FILES = (
    "keras2/headline.*",
    "old_keras/1.2.2_theano_*.h5",
    "old_keras/2.3.1_tensorflow_recurrent.h5",
    "hub/bert_masked.*",
    "hub/tokens_masked_lstm.keras",
    "saved_models/tf20/*",
    "saved_models/tf215/*",
    "text/*",
)


def files() -> list[Path]:
    found = [path for pattern in FILES for path in sorted(FIXTURES.glob(pattern))]
    return [path for path in found if path.is_dir() or path.suffix in (".keras", ".h5")]


def seedless(config: Any) -> Any:
    """A config without what is made for each model: seeds of initializers, and names that the file lacks."""
    if isinstance(config, dict):
        return {key: seedless(value) for key, value in config.items() if key not in ("seed", "name")}
    return [seedless(value) for value in config] if isinstance(config, (list, tuple)) else config


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(FIXTURES)))
def test_the_model_is_that_of_the_file(path: Path, tmp_path: Path) -> None:
    try:
        expected = layergraph.load_model(path)
    except ModelFileError as error:
        with pytest.raises(type(error), match=re.escape(str(error))):
            imported_model(path, tmp_path / "read")
        return
    first = imported_model(path, tmp_path / "read")
    with open_archive(path) as archive:
        main = archive.path
    for model in (first, mapped_model(main, tmp_path / "read")):
        for want, got in zip(expected.weights, model.weights, strict=True):
            assert got.name == want.name
            np.testing.assert_array_equal(got.numpy(), want.numpy(), err_msg=want.path)
        assert seedless(model.get_config()) == seedless(expected.get_config())
        assert model.keras_version == expected.keras_version
        assert model.compiled == expected.compiled
        state, wanted = model.optimizer_state or [], expected.optimizer_state or []
        for one, other in zip(state, wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def test_weights_are_mapped_in_their_memory_order(tmp_path: Path) -> None:
    """Neither the first model nor later ones copy them."""
    inputs = layergraph.Input((9, 9, 5))
    outputs = layergraph.layers.Conv2D(7, 3)(inputs)
    outputs = layergraph.layers.LSTM(6)(layergraph.layers.Reshape((7, 49))(outputs))
    model = layergraph.Model(inputs, layergraph.layers.Dense(11)(outputs))
    model.save(tmp_path / "model.keras")
    first = imported_model(tmp_path / "model.keras", tmp_path / "read")
    second = mapped_model(tmp_path / "model.keras", tmp_path / "read")
    for loaded in (first, second):
        ranges = mapped_ranges(tmp_path / "read" / ARRAYS)
        for weight in loaded.weights:
            assert any(start <= weight.value.data_ptr() < end for start, end in ranges), weight.path
            assert weight.value.data_ptr() % 64 == 0
            order = weight.memory_order or range(weight.value.ndim)
            assert weight.value.permute(tuple(order)).is_contiguous()
    # What one process writes, no other has.
    first.weights[0].assign(first.weights[0].numpy() + 1)
    np.testing.assert_array_equal(second.weights[0].numpy(), model.weights[0].numpy())


def mapped_ranges(file: Path) -> list[tuple[int, int]]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    found = [line.split()[0].split("-") for line in lines if line.endswith(f" {file}")]
    return [(int(start, 16), int(end, 16)) for start, end in found]


def test_only_arrays_of_the_model_are_read(tmp_path: Path) -> None:
    """A damaged array of the optimizer, which serving doesn't need, refuses nothing."""
    inputs = layergraph.Input((2,))
    trained = layergraph.Model(inputs, layergraph.layers.Dense(3)(inputs))
    trained.compile("adam", "mse")
    trained.fit(np.ones((4, 2)), np.ones((4, 3)), verbose=0)
    trained.save(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        group = file[OWN_OPTIMIZER_GROUP]
        name = next(name for name in group.attrs["weight_names"] if group[name].shape)
        del group[name]
        group.create_dataset(name, (3, 4), "f4", chunks=(3, 4))
    model = imported_model(tmp_path / "model.h5", tmp_path / "read")
    with safe_open(tmp_path / "read" / ARRAYS, "np") as arrays:
        count = sum(not name.startswith("padding") for name in arrays.keys())  # noqa: SIM118
    assert count == len(model.weights)
    with pytest.raises(CorruptFileError, match="0 chunks, expected 1"):
        list(model.optimizer_state or ())


def test_an_option_that_no_json_has_is_an_error_of_the_file(tmp_path: Path) -> None:
    with open_archive(FIXTURES / "saved_models" / "tf215" / "model") as archive:
        archive.config = {**archive.config, "idf_weights": [1.0, float("nan")]}
        with pytest.raises(CorruptFileError, match="has the value NaN, expected finite numbers"):
            describe(archive, tmp_path)


def test_a_loop_of_groups_ends(tmp_path: Path) -> None:
    inputs = layergraph.Input((2,))
    model = layergraph.Model(inputs, layergraph.layers.Dense(3)(inputs))
    model.save_weights(tmp_path / "model.weights.h5")
    (tmp_path / "model.json").write_text(model.to_json())
    with h5py.File(tmp_path / "model.weights.h5", "r+") as file:
        file["layers/itself"] = file["/"]
    with open_archive(tmp_path) as archive:
        (tmp_path / "read").mkdir()
        describe(archive, tmp_path / "read")
    groups = json.loads((tmp_path / "read" / DESCRIPTION).read_text())["weights"]["tree"]
    assert groups[groups[0]["members"]["layers"][1]]["members"]["itself"] == ["group", 0]


def changed(value: Any, choice: random.Random) -> Any:
    """A value of a damaged description."""
    others: list[Any] = [None, True, -1, 10**30, 2.5, "", "../x", "/etc/passwd", [], {}, [[]], ["error", 1]]
    if isinstance(value, dict) and value and choice.random() < 0.9:
        key = choice.choice(list(value))
        return {**value, key: changed(value[key], choice)}
    if isinstance(value, list) and value and choice.random() < 0.9:
        at = choice.randrange(len(value))
        return [*value[:at], changed(value[at], choice), *value[at + 1 :]]
    return choice.choice(others)


@pytest.mark.parametrize("name", ["headline.keras", "headline.h5"])
def test_a_damaged_description_gives_a_model_or_a_typed_error(name: str, tmp_path: Path) -> None:
    """The process that writes it may have been taken over."""
    path, folder = FIXTURES / "keras2" / name, tmp_path / "read"
    imported_model(path, folder)
    good = json.loads((folder / DESCRIPTION).read_text())
    refused = 0
    for seed in range(80):
        choice = random.Random(seed)
        part = choice.choice([key for key in good if key not in ("config", "training_config")])
        (folder / DESCRIPTION).write_text(json.dumps({**good, part: changed(good[part], choice)}))
        try:
            mapped_model(path, folder)
        except ModelFileError:
            refused += 1
    assert refused > 40


def test_an_error_whose_problems_are_no_texts_is_damaged(tmp_path: Path) -> None:
    path, folder = FIXTURES / "keras2" / "headline.keras", tmp_path / "read"
    imported_model(path, folder)
    content = json.loads((folder / DESCRIPTION).read_text())
    members = content["weights"]["tree"][0]["members"]
    for problems in ("a text", [1], None):
        for name in members:
            members[name] = ["error", ["UnsafeFileError", "m.keras", problems]]
        (folder / DESCRIPTION).write_text(json.dumps(content))
        with pytest.raises(CorruptFileError, match="what another process read of it is damaged"):
            mapped_model(path, folder)


def test_of_an_error_many_and_long_problems_are_cut() -> None:
    fields = error_fields(CorruptFileError("m.keras", [3000 * "x"] * 60))
    error = raised(fields, Path("other") / "m.keras")
    assert isinstance(error, CorruptFileError)
    assert len(error.problems) == 51
    assert {len(problem) for problem in error.problems[:50]} == {2000}
    assert error.problems[50] == "and 10 more"


def test_damaged_arrays_are_refused(tmp_path: Path) -> None:
    path, folder = FIXTURES / "keras2" / "headline.keras", tmp_path / "read"
    imported_model(path, folder)
    data = (folder / ARRAYS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    first = next(name for name in header if name.isdecimal() and len(header[name]["shape"]) == 2)

    def with_header(**changes: Any) -> bytes:
        text = json.dumps({**header, **changes}).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + length :]

    rows, columns = header[first]["shape"]
    for damaged in (
        b"",
        data[:100],
        data[:-1],
        (1 << 62).to_bytes(8, "little") + data[8:],
        with_header(**{first: {**header[first], "shape": [columns, rows, 1]}}),
        with_header(**{first: {**header[first], "dtype": "I32"}}),
        with_header(__metadata__={}),
        with_header(__metadata__={"orders": json.dumps({first: [0]})}),
        with_header(__metadata__={"orders": json.dumps({first: "ab"})}),
    ):
        (folder / ARRAYS).write_bytes(damaged)
        with pytest.raises(CorruptFileError, match="what another process read of it is damaged"):
            mapped_model(path, folder)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["FIFO", "folder"])
def test_a_description_that_is_no_file_is_refused(make: Any, tmp_path: Path) -> None:
    make(tmp_path / DESCRIPTION)
    with pytest.raises(ModelFileError):
        mapped_model(tmp_path / "model.keras", tmp_path)


def test_safetensors_are_those_of_the_library(tmp_path: Path) -> None:
    dtypes = [
        "bool",
        "float16",
        "float32",
        "float64",
        *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)),
    ]
    shapes = [(), (0, 3), (5,), (2, 3, 4)]
    values = {
        f"{dtype} {shape}": np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
        for dtype in dtypes
        for shape in shapes
    }
    entries = [Entry(name, one.shape, one.dtype, lambda one=one: one) for name, one in values.items()]
    write_safetensors(tmp_path / "x.safetensors", entries, {"a": "b"})
    with safe_open(tmp_path / "x.safetensors", "np") as file:
        assert file.metadata() == {"a": "b"}
        for name, want in values.items():
            got = file.get_tensor(name)
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)
