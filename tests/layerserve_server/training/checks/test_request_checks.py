"""Validation: settings of a run that can mean nothing are named before any data is taken."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from layerserve.values.table_files.table import FileArray, Selection
from layerserve_server.datasets import reader
from layerserve_server.datasets.data_file import DataFile
from layerserve_server.errors import (
    ForbiddenPathError,
    InvalidRequestError,
    InvalidTensorError,
    MissingInputError,
    NotTrainableError,
    TooLargeError,
    UnknownInputError,
    UnknownOutputError,
)
from layerserve_server.training.checks.request_checks import check_workers, checked
from layerserve_server.training.request import EVALUATION, Budget, DataArray, Role, RunRequest


def spec(name, *shape, dtype="float32"):
    return SimpleNamespace(name=name, shape=(None, *shape), dtype=dtype)


def array(role, *shape, name="", dtype="float32"):
    return DataArray(Role(role), name, dtype, shape)


INPUTS, OUTPUTS = [spec("x", 2)], [spec("y", 2)]
DATA = (array("x", 6, 2), array("y", 6, 2))
VALIDATION = (array("validation_x", 4, 2), array("validation_y", 4, 2))
GOOD = RunRequest("m", 1, DATA)


def check(inputs=INPUTS, outputs=OUTPUTS, max_bytes=10**6, **changes):
    return checked(replace(GOOD, **changes), inputs, outputs, max_bytes, reader.describe_all)


@pytest.mark.parametrize(
    "changes",
    [
        {"validation_split": 0.0},
        {"validation_split": 0.5},
        {"seed": 0},
        {"steps_per_epoch": 0},
        {"checkpoint_seconds": 0.0},
        {"budget": Budget(0.0, 0, 0)},
        {"monitor_mode": "min"},
        {"monitor_mode": "max"},
        {"publish_label": "best-1.2_x"},
        {"data": DATA + VALIDATION, "publish_if_improved": "loss"},
        {"validation_split": 0.5, "publish": "best", "monitor": "val_loss"},
        {"publish": "best", "monitor": "loss"},
        {"publish": False, "monitor": "val_loss"},
        {"kind": EVALUATION, "publish": False},
        {"epochs": 1, "batch_size": 1},
    ],
    ids=str,
)
def test_what_means_something_is_taken(changes):
    found = check(**changes)
    assert replace(found, data=()) == replace(GOOD, **{**changes, "data": ()})
    assert [one.name for one in found.data] == ["x", "y"] * (len(found.data) // 2)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"epochs": 0}, "epochs: got 0, expected 1 or more"),
        ({"batch_size": 0}, "batch_size: got 0, expected 1 or more"),
        ({"validation_split": -0.1}, "validation_split: got -0.1"),
        ({"validation_split": 1.0}, "validation_split: got 1.0"),
        ({"validation_split": math.nan}, "validation_split: got nan"),
        ({"validation_split": 0.9}, "validation_split: 0.9 of 6 rows leaves none"),
        ({"seed": -1}, "seed: got -1, expected 0 or more"),
        ({"steps_per_epoch": -1}, "steps_per_epoch: got -1"),
        ({"budget": Budget(max_memory_bytes=-1)}, "budget.memory_bytes: got -1"),
        ({"budget": Budget(max_disk_bytes=-1)}, "budget.disk_bytes: got -1"),
        ({"budget": Budget(max_seconds=-0.5)}, "budget.seconds: got -0.5"),
        ({"budget": Budget(max_seconds=math.nan)}, "budget.seconds: got nan"),
        ({"checkpoint_seconds": -1.0}, "checkpoint_seconds: got -1.0"),
        ({"checkpoint_seconds": math.inf}, "checkpoint_seconds: got inf"),
        ({"lora": {"rank": 1, "layers": ["a"] * 1001}}, "lora.layers: got 1001 patterns, expected at most 1000"),
        ({"lora": {"rank": 1, "layers": ["a" * 1001]}}, "lora.layers: got a text of 1001 characters"),
        ({"data": (array("x", 6, 2, name="n" * 10**6), DATA[1])}, "data 0: got a text of 1000000"),
        ({"epochs": 2**31 - 1}, "epochs: got 2147483647, expected at most 100000"),
        ({"description": "d" * 10**6}, "description: got 1000000 characters"),
        ({"monitor": "m" * 10**6}, "monitor: got 1000000 characters"),
        ({"publish_label": "l" * 10**6}, "publish_label: got 1000000 characters"),
        ({"publish_if_improved": "l" * 10**6}, "publish_if_improved: got 1000000 characters"),
        ({"freeze": ("a",) * 10**5}, "freeze: got 100000 patterns, expected at most 1000"),
        ({"freeze": ("!" + "*a" * 1000,)}, "freeze: got a text of 2001 characters"),
        ({"callbacks": ("TerminateOnNaN",) * 51}, "callbacks: got 51 callbacks"),
        ({"class_weight": dict.fromkeys(range(10**6), 1.0)}, "class_weight: got 1000000 classes"),
        ({"class_weight": {0: 1e308}}, "class_weight: got 1e+308 for class 0"),
        ({"class_weight": {0: math.nan}}, "class_weight: got nan for class 0"),
        ({"precision": 7}, "precision: got 7, expected float32 or mixed_bfloat16 or auto"),
        ({"monitor_mode": "auto"}, "monitor_mode: got 'auto', expected min or max"),
        ({"publish_label": "-a"}, "publish_label: got '-a'"),
        ({"publish": False, "publish_label": "a"}, "publish_label: given for a run that doesn't publish its result"),
        ({"publish": False, "publish_if_improved": "loss"}, "publish_if_improved: given for a run that"),
        ({"publish_if_improved": "loss"}, "publish_if_improved: requires validation data"),
        ({"publish": "best", "monitor": "val_loss"}, "monitor: 'val_loss' requires validation data"),
        ({"data": (*DATA, *VALIDATION), "kind": EVALUATION}, "validation_x 'x': evaluation takes x, y and"),
        ({"data": (*DATA, *VALIDATION), "validation_split": 0.5}, "exclude each other: got both"),
        ({"data": (*DATA, VALIDATION[0])}, "validation data: no y; expected targets for 'y'"),
        ({"data": (DATA[0],), "kind": EVALUATION}, "evaluation data: no y; expected targets for 'y'"),
        ({"data": (*DATA, DATA[1])}, "y 'y': given twice"),
        ({"data": (*DATA, *(array("sample_weight", 6),) * 511)}, "data: got 513 arrays, expected at most 512"),
        (
            {"data": (DATA[0], DataArray(Role.Y, "y", "float32", (), DataFile("", "y.npy")))},
            "y 'y': got dtype or shape with a file, expected them from the file",
        ),
    ],
    ids=lambda value: str(value)[:80],
)
def test_what_means_nothing_is_named(changes, text):
    with pytest.raises(InvalidRequestError) as caught:
        check(**changes)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        ((array("x", 6, 2, name="a"), DATA[1]), UnknownInputError, "x: unknown input 'a'"),
        ((DATA[0], array("y", 6, 2, name="a")), UnknownOutputError, "y: unknown output 'a'"),
        ((array("validation_x", 6, 2, name="a"), *DATA), UnknownInputError, "validation_x: unknown input 'a'"),
        ((*DATA, array("sample_weight", 6, name="a")), UnknownOutputError, "sample_weight: unknown output 'a'"),
        ((), MissingInputError, "training data: no x for input 'x'"),
        ((DATA[1],), MissingInputError, "training data: no x for input 'x'"),
        ((*DATA, VALIDATION[1]), MissingInputError, "validation data: no x for input 'x'"),
        ((array("x", 6, 2), array("y", 5, 2)), InvalidTensorError, "x 'x' has 6, y 'y' has 5; expected the same"),
        ((*DATA, array("sample_weight", 5)), InvalidTensorError, "sample_weight 'y' has 5"),
        ((*DATA, VALIDATION[0], array("validation_y", 5, 2)), InvalidTensorError, "validation_y 'y' has 5"),
        ((array("x", 0, 2), array("y", 0, 2)), InvalidTensorError, "got no rows, expected 1 or more"),
        ((array("x"), DATA[1]), InvalidTensorError, "x 'x': got a scalar"),
        ((DATA[0], array("y", 6, -1)), InvalidTensorError, "y 'y': got shape (6, -1), expected no negative length"),
        ((DATA[0], array("y", 6, 2, dtype="string")), InvalidTensorError, "y 'y': got dtype string"),
        ((array("x", 6, 2, dtype="string"), DATA[1]), InvalidTensorError, "got dtype string"),
        ((array("x", *(2**62,) * 10**5), DATA[1]), InvalidTensorError, "data 0: got 100000 axes"),
        ((array("x", 6, 0, 2**62), DATA[1]), TooLargeError, "too large"),
        ((array("x", 6, 3), DATA[1]), InvalidTensorError, "x 'x': got length 3 on axis 1"),
        ((DATA[0], array("y", 6, 2**55)), TooLargeError, "y 'y': shape (6, 36028797018963968) is too large"),
        ((DATA[0], array("y", 6, 10**6)), TooLargeError, "the data has 24000048 bytes, expected at most 1000000"),
    ],
    ids=lambda value: str(value)[:80],
)
def test_data_that_does_not_fit_is_named(data, error, text):
    with pytest.raises(error) as caught:
        check(data=data)
    assert text in str(caught.value)


def test_data_may_be_as_large_as_the_limit():
    assert check(max_bytes=96).kept_bytes == 96
    with pytest.raises(TooLargeError, match="the data has 96 bytes, expected at most 95"):
        check(max_bytes=95)


def test_names_may_be_left_out_where_there_is_one():
    two = [spec("y", 2), spec("z", 1)]
    weights = array("sample_weight", 6)
    data = (array("x", 6, 2), array("y", 6, 2, name="y"), array("y", 6, 1, name="z"), weights)
    # Weights without a name are those of all outputs.
    assert [one.name for one in check(outputs=two, data=data).data] == ["x", "y", "z", ""]
    with pytest.raises(UnknownOutputError, match="got an array without a name, but the model has 2 outputs: 'y', 'z'"):
        check(outputs=two)
    with pytest.raises(UnknownInputError, match="x: got an array without a name, but the model has 2 inputs: 'x', 'b'"):
        check(inputs=[*INPUTS, spec("b", 1)])


def test_types_of_inputs_are_those_of_requests():
    for dtype in ("float64", "float16", "int64", "bool", "uint8"):
        assert check(data=(array("x", 6, 2, dtype=dtype), DATA[1])).data[0].dtype == dtype
    with pytest.raises(InvalidTensorError, match="x 'x': got dtype float32, expected int32"):
        check(inputs=[spec("x", 2, dtype="int32")])


def test_rows_of_a_model_of_fixed_batches_are_those_of_the_data():
    fixed = [SimpleNamespace(name="x", shape=(3, 2), dtype="float32")]
    assert check(inputs=fixed).data[0].shape == (6, 2)


def test_a_file_says_what_it_holds(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((6, 2), np.float32))
    data = (DataArray(Role.X, "", "", (), DataFile(str(tmp_path), "x.npy")), DATA[1])
    found = check(data=data).data[0]
    assert (found.name, found.dtype, found.shape, found.mapped) == ("x", "float32", (6, 2), True)
    assert found.file.stamp[0] == (tmp_path / "x.npy").stat().st_size


@pytest.mark.parametrize(
    ("workers", "batch", "text"),
    [
        (1, 32, ""),
        (4, 32, ""),
        (3, 3, ""),
        (0, 32, "workers: got 0, expected at most 4"),
        (-1, 32, "workers: got -1"),
        (5, 32, "workers: got 5, expected at most 4, the server's setting max_workers"),
        (4, 3, "workers: got 4 for batches of 3 rows, expected at most one per row"),
    ],
)
def test_workers_are_as_many_as_the_server_allows_and_a_batch_has_rows(workers, batch, text):
    request = replace(GOOD, workers=workers, batch_size=batch)
    if not text:
        check_workers(request, 4)
        return
    with pytest.raises(InvalidRequestError) as caught:
        check_workers(request, 4)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("path", "selection", "text"),
    [
        ("", {"columns": ("a",)}, "x 'x': got columns or fill, expected them for a file only"),
        ("", {"fill": "0"}, "x 'x': got columns or fill, expected them for a file only"),
        ("x.npz", {"columns": ("a",) * 10_001}, "data: got 10001 columns, expected at most 10000"),
        ("x.npz", {"columns": ("a" * 1001,)}, "data 0: got a text of 1001 characters"),
        ("x.csv", {"fill": "0" * 1001}, "data 0: got a text of 1001 characters"),
        ("x.npy", {"columns": ("a", "b")}, "'x.npy': got several columns, expected none for a .npy file"),
        ("x.npy", {"fill": "0"}, "'x.npy': got fill, expected none for a .npy file"),
    ],
    ids=["array", "fill of an array", "many", "long", "long fill", "npy", "fill of npy"],
)
def test_columns_that_can_not_be_read(tmp_path, path, selection, text):
    np.save(tmp_path / "x.npy", np.zeros((6, 2)))
    given = {"dtype": "", "shape": (), "file": DataFile(str(tmp_path), path)} if path else {}
    with pytest.raises(InvalidRequestError) as caught:
        check(data=(replace(DATA[0], selection=Selection(**selection), **given), DATA[1]))
    assert text in str(caught.value)


def test_what_a_file_is_read_as_follows_from_its_use(tmp_path):
    (tmp_path / "t.csv").write_text("text,y,w\n7,1,0.5\n8,2,1\n")
    file = DataFile(str(tmp_path), "t.csv")
    data = [
        DataArray(Role(role), "", "", (), file, Selection(key=key))
        for role, key in (("x", ""), ("y", ""), ("sample_weight", "w"))
    ]
    found = check([spec("text", 1, dtype="string")], data=tuple(data)).data
    assert [(one.dtype, one.shape, one.selection.columns) for one in found] == [
        ("string", (2,), ("text",)),
        ("int64", (2,), ("y",)),
        ("float64", (2,), ("w",)),
    ]


def test_arrays_in_files_are_described_together_in_their_order():
    asked = []

    def describe(wanted):
        asked.extend(wanted)
        return [
            (replace(file, stamp=(number,)), FileArray("float32", (6, 2), mapped=True))
            for number, (file, _) in enumerate(wanted)
        ]

    x, weight = (DataFile("/data", f"{role}.npy") for role in ("x", "sample_weight"))
    filed = [DataArray(Role(file.path.removesuffix(".npy")), "", "", (), file) for file in (x, weight)]
    request = replace(GOOD, data=(filed[0], DATA[1], filed[1]))
    found = checked(request, INPUTS, OUTPUTS, 10**6, describe).data
    assert asked == [(x, Selection(name="x", text=False)), (weight, Selection(name="y", text=False))]
    assert [one.file for one in found] == [replace(x, stamp=(0,)), None, replace(weight, stamp=(1,))]
    assert found[0].mapped
    for wrong, error in ((replace(x, path="../x.npy"), ForbiddenPathError), (replace(x, folder=""), NotTrainableError)):
        data = (replace(filed[0], file=wrong), DATA[1])
        with pytest.raises(error):
            checked(replace(request, data=data), INPUTS, OUTPUTS, 10**6, reader.describe_all)


def test_a_request_comes_back_from_its_folder(tmp_path):
    request = check(compile={"loss": {"y": "mse"}}, class_weight={0: 1.0, 1: 5.0}, seed=7)
    request.write(tmp_path)
    assert RunRequest.read(tmp_path) == request
