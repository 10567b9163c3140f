"""Limits of loading: a file at the exact limit loads, and with a limit one lower is rejected by name."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from layergraph import Input, Model
from layergraph.archive import LoadLimits
from layergraph.errors import CorruptFileError, GraphError
from layergraph.layers import Dense
from layergraph.models.loading import load_model
from layergraph.ops import ranges
from layergraph.ops.ranges import Arange, Linspace


def model() -> Model:
    """A model that calls another one twice: five layers, four calls other than inputs, one of them repeated."""
    a = Input((4,), name="a")
    inner = Model(a, Dense(4, name="d")(a), name="inner")
    x = Input((4,), name="x")
    return Model(x, Dense(3, name="a_long_name")(inner(inner(x))), name="m")


def config_of(path: Path) -> str:
    """The config's JSON, as in the file."""
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return str(file.attrs["model_config"])
    with zipfile.ZipFile(path) as archive:
        return archive.read("config.json").decode()


def depth(value: Any) -> int:
    if isinstance(value, dict | list):
        return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)
    return 0


@pytest.fixture(name="path", params=[".keras", ".h5"])
def _path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"m{request.param}"
    model().save(path)
    return path


SAID = {
    "config_bytes": "{less} (characters|bytes)|expected at most {less}",
    "config_values": "has more than {less} values",
    "config_depth": "is nested more than {less} deep",
    "nesting": "models and layers are nested more than {less} deep",
    "layers": "has more than {less} layers",
    "nodes": "has more than {less} calls of layers",
    "calls": "repeats more than {less} calls of layers by calling nested models repeatedly",
    "name_length": "a layer's name is 'a_long_name', expected text",
    "weight_bytes": "its weights take 140 bytes, at most {less} are read",
    "activation_bytes": r"one row of its output, of shape \(None, 4\), takes 16 bytes, at most {less} are allowed",
    "names": "has more than {less} weights",
    "directory_bytes": "its central directory has more than {less} bytes",
}


@pytest.mark.parametrize("name", SAID)
def test_a_file_may_need_just_what_is_allowed(path: Path, name: str) -> None:
    text = config_of(path)
    needed = {
        "config_bytes": len(text),
        "config_values": text.count(",") + text.count("[") + text.count("{"),
        "config_depth": depth(json.loads(text)),
        "nesting": 3,
        "layers": 5,
        "nodes": 4,
        "calls": 1,
        "name_length": len("a_long_name"),
        "weight_bytes": 4 * (20 + 15),
        "activation_bytes": 4 * 4,
        # Only an .h5 lists its weights by name, and only a .keras has a central directory.
        "names": 4 if path.suffix == ".h5" else 0,
        "directory_bytes": 178 if path.suffix == ".keras" else 0,
    }[name]
    assert load_model(path, limits=LoadLimits(**{name: needed})).count_params() == 35
    if needed:
        with pytest.raises(CorruptFileError, match=SAID[name].format(less=needed - 1)):
            load_model(path, limits=LoadLimits(**{name: needed - 1}))


def test_the_defaults() -> None:
    """A change is one for the changelog: files that were read may be refused."""
    mib, gib = 1 << 20, 1 << 30
    assert asdict(LoadLimits()) == {
        "config_bytes": 256 * mib,
        "config_values": 16_000_000,
        "config_depth": 320,
        "nesting": 64,
        "layers": 320_000,
        "nodes": 1_000_000,
        "calls": 30_000,
        "name_length": 4096,
        "asset_bytes": 128 * mib,
        "directory_bytes": mib,
        "weight_bytes": 256 * gib,
        "activation_bytes": 8 * gib,
        "inflation": 64,
        "inflation_floor": 64 * mib,
        "names": 640_000,
    }


def test_what_a_file_may_become_grows_with_it() -> None:
    limits = LoadLimits(weight_bytes=1000, inflation=10, inflation_floor=100)
    assert [limits.inflated_bytes(stored) for stored in (0, 1, 90, 91)] == [100, 110, 1000, 1000]


def test_a_small_file_does_not_hold_the_config_of_the_largest_model(tmp_path: Path) -> None:
    limits = LoadLimits()
    small, large = limits.of_file(8000), limits.of_file(1 << 30)
    assert (small.config_bytes, small.config_values) == ((32 << 20) + 8000, 2_001_000)
    assert (large.config_bytes, large.config_values) == (limits.config_bytes, limits.config_values)
    assert LoadLimits(config_bytes=10, config_values=5).of_file(8000) == LoadLimits(config_bytes=10, config_values=5)
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "[" + "0," * 2_100_000 + "0]")
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(CorruptFileError, match=r"config\.json has more than 200\d\d\d\d values"):
        load_model(tmp_path / "m.keras")


def test_ranges_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_LONGEST", 10)
    assert len(Arange(name="r")(0, 10)) == 10
    one, two = torch.zeros(()), torch.zeros(2)
    assert Linspace(num=10, name="l")(one, 1.0).shape == (10,)
    assert Linspace(num=5, name="l")(two, 1.0).shape == (5, 2)
    for start, stop, step in ((0, 11, 1), (0, 1, 0.09), (3, 3, 0), (11, 0, -1)):
        with pytest.raises(GraphError, match="has too many elements"):
            Arange(name="r")(start, stop, step)
    for start, number in ((one, 11), (two, 6)):
        with pytest.raises(GraphError, match=f"{number} numbers per range"):
            Linspace(num=number, name="l")(start, 1.0)
