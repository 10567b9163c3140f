"""Golden files beside model files."""

from __future__ import annotations

import runpy
import sys
import zipfile
from pathlib import Path
from typing import Any

import keras
import layergraph
import numpy as np
import pytest
from layergraph import golden
from layergraph.errors import CorruptFileError, GraphError
from layergraph.golden import (
    Golden,
    GoldenMismatchError,
    check_golden,
    golden_path,
    make_golden,
    read_golden,
    write_golden,
)

SCRIPT = Path(__file__).parents[2] / "deploy" / "make_golden.py"


def model() -> layergraph.Model:
    x, ids = layergraph.Input((4,), name="x"), layergraph.Input((3,), dtype="int32", name="ids")
    words = layergraph.layers.Flatten()(layergraph.layers.Embedding(5, 2)(ids))
    hidden = layergraph.layers.Dense(3, name="a")(layergraph.layers.concatenate([x, words]))
    return layergraph.Model([x, ids], [hidden, layergraph.layers.Dense(2, name="b")(hidden)])


def test_a_golden_file_made_here_holds(tmp_path: Path) -> None:
    made = model()
    write_golden(make_golden(made), tmp_path / "golden.npz")
    check_golden(made, tmp_path / "golden.npz")
    assert read_golden(tmp_path / "golden.npz").rtol == 1e-4


def test_a_model_that_misses_it_says_where_and_by_how_much(tmp_path: Path) -> None:
    made = model()
    write_golden(make_golden(made), tmp_path / "golden.npz")
    bias = made.get_layer("b").own_weights[1]
    bias.assign(np.array([0.0, 0.25], "f4"))
    with pytest.raises(GoldenMismatchError, match=r"output 'b' differs by 0\.25 at \(.*, 1\): .* \(2 of 4 values"):
        check_golden(made, tmp_path / "golden.npz")
    bias.assign(np.array([0.0, np.nan], "f4"))
    with pytest.raises(GoldenMismatchError, match="output 'b' differs by nan"):
        check_golden(made, tmp_path / "golden.npz")


def test_the_difference_is_shown_where_only_one_side_is_nan(tmp_path: Path) -> None:
    """Also if both are NaN elsewhere, as a model's own NaN is."""
    made = model()
    bias = made.get_layer("b").own_weights[1]
    bias.assign(np.array([np.nan, 0.0], "f4"))
    write_golden(make_golden(made), tmp_path / "golden.npz")
    check_golden(made, tmp_path / "golden.npz")
    bias.assign(np.array([np.nan, 0.5], "f4"))
    with pytest.raises(GoldenMismatchError, match=r"output 'b' differs by 0\.5 at \(.*, 1\): .* \(2 of 4 values"):
        check_golden(made, tmp_path / "golden.npz")


def test_tolerances_may_be_others_than_the_files(tmp_path: Path) -> None:
    made = model()
    write_golden(make_golden(made), tmp_path / "golden.npz")
    made.get_layer("b").own_weights[1].assign(np.array([0.0, 0.25], "f4"))
    check_golden(made, tmp_path / "golden.npz", atol=0.26)
    check_golden(made, tmp_path / "golden.npz", rtol=1e6)
    with pytest.raises(GoldenMismatchError, match=r"out of rtol=0.0001, atol=0.24"):
        check_golden(made, tmp_path / "golden.npz", atol=0.24)
    made.get_layer("b").own_weights[1].assign(np.array([0.0, 0.0], "f4"))
    check_golden(made, tmp_path / "golden.npz", rtol=0.0, atol=0.0)


def own_loss(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)


def test_keras_writes_one_with_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of inputs and of nearly all outputs are Keras's; where an output has no name, the order is used."""
    x, ids = keras.Input((None, 4), name="x"), keras.Input((3,), dtype="int32", name="ids")
    shared = keras.layers.Dense(3, name="shared")
    words = keras.layers.Embedding(5, 4)(ids)
    made = keras.Model([x, ids], [shared(x), shared(words), keras.layers.LSTM(2, name="last")(x)])
    # The script doesn't know the loss.
    made.compile(loss=own_loss)
    made.save(tmp_path / "m.keras")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(tmp_path / "m.keras"), str(tmp_path / "golden.npz")])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    check_golden(layergraph.load_model(tmp_path / "m.keras", compile=False), tmp_path / "golden.npz")
    assert len(read_golden(tmp_path / "golden.npz").outputs) == 3


def test_where_it_lies() -> None:
    assert golden_path(Path("/models/m/3/model.keras")) == Path("/models/m/3/golden.npz")
    assert golden_path(Path("/models/m.keras")) == Path("/models/m.golden.npz")


@pytest.mark.parametrize("content", ["pickle", "huge", "short", "text", "nothing", "other model"])
def test_a_golden_file_is_not_trusted(content: str, tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    header = (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117)
        + b"\n"
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("output/b.npy", b"x" * 20 if content == "short" else header)
    if content == "pickle":
        np.savez(path, **{"output/a": np.array([{}], dtype=object)})
    elif content == "text":
        path.write_text("golden")
    elif content == "nothing":
        np.savez(path, rtol=1e-4)
    elif content == "other model":
        np.savez(path, **{"input/z": np.ones((1, 2)), "output/a": np.ones(3)})
    with pytest.raises(CorruptFileError):
        check_golden(model(), path)


def test_an_array_has_only_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "golden.npz", **{"input/x": np.ones(1), "output/a": np.zeros(100)})
    size = 128 + 800  # its header and its numbers
    monkeypatch.setattr(golden, "_MOST_BYTES", size)
    assert read_golden(tmp_path / "golden.npz").outputs["a"].shape == (100,)
    monkeypatch.setattr(golden, "_MOST_BYTES", size - 1)
    with pytest.raises(CorruptFileError, match=f"more than {size - 1} bytes"):
        read_golden(tmp_path / "golden.npz")


def test_text_needs_examples_of_ones_own() -> None:
    x = layergraph.Input((1,), dtype="string", name="words")
    with pytest.raises(GraphError, match="input 'words' takes text"):
        make_golden(layergraph.Model(x, layergraph.layers.Hashing(4)(x)))


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize("value", [-1e-9, np.nan, np.inf, [1e-3, 1e-3]])
def test_a_tolerance_is_one_number(name: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    np.savez(path, **{name: value, "input/x": np.ones((1, 2)), "output/a": np.ones(3)})
    with pytest.raises(CorruptFileError, match=f"'{name}' is .*, expected one number of at least 0"):
        read_golden(path)


def test_tolerances_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    np.savez(path, rtol=0.0, atol=[0.25], **{"input/x": np.ones((1, 2)), "output/a": np.ones(3)})
    golden = read_golden(path)
    assert (golden.rtol, golden.atol) == (0.0, 0.25)


def test_outputs_of_another_shape_are_told(tmp_path: Path) -> None:
    made = model()
    golden = make_golden(made)
    outputs = {name: value[:, :1] if name == "b" else value for name, value in golden.outputs.items()}
    write_golden(Golden(golden.inputs, outputs), tmp_path / "golden.npz")
    with pytest.raises(GoldenMismatchError, match=r"output 'b' has shape \(\d+, 2\), expected \(\d+, 1\)"):
        check_golden(made, tmp_path / "golden.npz")


@pytest.mark.parametrize(("change", "held"), [(0.5, True), (0.51, False)])
def test_a_difference_may_be_as_large_as_the_tolerances_say(change: float, held: bool, tmp_path: Path) -> None:
    x = layergraph.Input((1,), name="x")
    made = layergraph.Model(x, layergraph.layers.Rescaling(1.0, name="y")(x))
    ones = np.full((2, 1), 2.0, "float32")
    write_golden(Golden({"x": ones + change}, {"y": ones}, rtol=0.125, atol=0.25), tmp_path / "golden.npz")
    if held:
        check_golden(made, tmp_path / "golden.npz")
    else:
        with pytest.raises(GoldenMismatchError, match=r"differs by 0.51 at .* \(2 of 2 values are out of rtol=0.125"):
            check_golden(made, tmp_path / "golden.npz")


def test_arrays_are_matched_by_name_in_whatever_order_they_lie(tmp_path: Path) -> None:
    made = model()
    golden = make_golden(made)
    turned = Golden(dict(reversed(golden.inputs.items())), dict(reversed(golden.outputs.items())))
    assert list(turned.inputs) != list(golden.inputs)
    write_golden(turned, tmp_path / "golden.npz")
    check_golden(made, tmp_path / "golden.npz")
