"""A Normalization that was adapted before its model was built: the file lacks the lengths that its statistics have."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import h5py
import layergraph
import numpy as np
import pytest
from layergraph import layers
from layergraph.errors import CorruptFileError
from model_files import check_fixture

FIXTURES = Path(__file__).parents[2] / "fixtures" / "adapted"
FILES = ("tf210", "tf210.h5", "tf215", "tf215.h5", "tf215.keras")


@pytest.mark.parametrize("name", FILES)
def test_files_give_the_numbers_of_tensorflow(name: str, tmp_path: Path) -> None:
    model = check_fixture(FIXTURES / name)
    assert model.input_shape == (None, 5)
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"again{suffix}")
        again = layergraph.load_model(tmp_path / f"again{suffix}")
        np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])


def _open(path: Path, known: str, unknown: str) -> None:
    """Replaces a shape in the file's config."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = str(file.attrs["model_config"]).replace(known, unknown)
        return
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["config.json"] = members["config.json"].replace(known.encode(), unknown.encode())
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _stack(*stack: Any, shape: tuple[int, ...] = (5,)) -> Any:
    return layergraph.Sequential([layergraph.Input(shape), *stack])


def _nested() -> Any:
    x = layergraph.Input((5,))
    first, second = (_stack(layers.Normalization(), layers.Dense(2)) for _ in range(2))
    return layergraph.Model(x, [first(x), second(x), layers.Normalization()(x)])


def _model_in_a_model() -> Any:
    return _stack(_stack(layers.Normalization(), layers.Dense(2)))


#: Models, and the shape that their files lose.
MODELS: dict[str, tuple[Any, str, str]] = {
    "a model in a model": (
        lambda: _stack(_stack(layers.Normalization(), layers.Dense(2))),
        "[null, 5]",
        "[null, null]",
    ),
    "several of them": (_nested, "[null, 5]", "[null, null]"),
    "several axes": (
        lambda: _stack(layers.Normalization((1, 3)), layers.Flatten(), layers.Dense(2), shape=(4, 3, 2)),
        "[null, 4, 3, 2]",
        "[null, null, 3, null]",
    ),
}


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", MODELS)
def test_the_statistics_give_all_inputs_their_lengths(name: str, suffix: str, tmp_path: Path) -> None:
    make, known, unknown = MODELS[name]
    model = make()
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(1, 2, weight.shape).astype(weight.dtype) for weight in model.get_weights()])
    path = tmp_path / f"m{suffix}"
    model.save(path)
    _open(path, known, unknown)
    again = layergraph.load_model(path)
    assert again.input_shape == model.input_shape
    rows = rng.standard_normal((3, *model.input_shape[1:])).astype(np.float32)
    for got, expected in zip(*(_listed(m.predict(rows)) for m in (again, model)), strict=True):
        np.testing.assert_array_equal(got, expected)


def _listed(outputs: Any) -> list[Any]:
    return outputs if isinstance(outputs, list) else [outputs]


def test_statistics_of_another_rank_are_refused_by_the_layer(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    _stack(layers.Normalization(), layers.Dense(2)).save(path)
    _open(path, '"axis": [-1]', '"axis": [0, -1]')
    _open(path, "[null, 5]", "[null, null]")
    with pytest.raises(CorruptFileError, match="expected one of known length"):
        layergraph.load_model(path)
