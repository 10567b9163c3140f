"""Predictions whose rows are sent in several requests."""

from __future__ import annotations

import numpy as np
import pytest
from layerserve import AsyncClient, Client, InvalidArgument, TensorSpec
from layerserve.calls import connection
from layerserve.prediction import row_parts
from layerserve.prediction.row_parts import PART_BYTES, Rows, check_part, part_size
from layerserve.values.tensors import decode

X = TensorSpec("x", (None, 3), "float32")
Y = TensorSpec("y", (None, 3), "float32")
ROWS = np.arange(21, dtype=np.float32).reshape(7, 3)


def requests(server):
    return [request for name, request in server.calls if name == "Predict"]


@pytest.fixture(autouse=True)
def kept_alive(server):
    """Models with rows that depend on one another, and with an output that has fewer rows."""
    server.add_model("mean", lambda a: {"y": a["x"] - a["x"].mean(0)}, [X], [Y], independent_rows=False)
    server.add_model("late", lambda a: {"y": a["x"]}, [X], [Y], state="available")
    server.add_model("sum", lambda a: {"y": a["x"], "sum": a["x"].sum(0)}, [X], [Y])


def test_batch_size_divides_the_rows(client, server):
    assert client.predict("double", ROWS, batch_size=3).tolist() == (2 * ROWS).tolist()
    sent = requests(server)
    assert [len(decode(request.inputs[0])) for request in sent] == [3, 3, 1]
    assert not sent[0].model.HasField("version")
    assert [request.model.version for request in sent[1:]] == [1, 1], "all parts are of one version"


def test_all_inputs_and_outputs_are_divided(client):
    inputs = {"left": np.ones((5, 2)), "right": np.arange(10).reshape(5, 2)}
    outputs = client.predict_named("two", inputs, batch_size=2)
    assert {name: len(array) for name, array in outputs.items()} == {"sum": 5, "ids": 5}
    assert outputs["sum"].tolist() == (1 + np.arange(10).reshape(5, 2)).tolist()
    assert (outputs.model, outputs.version) == ("two", 1)


@pytest.mark.parametrize(
    ("second", "wrong"),
    [
        (
            {"y": np.zeros((3, 2))},
            r"output 'y': got rows of float64\[2\] for a part of the rows, expected float64\[3\]",
        ),
        ({"y": np.zeros((3, 3), bool)}, r"output 'y': got rows of bool\[3\]"),
    ],
)
def test_parts_that_dont_go_together_are_an_error_of_the_client(client, server, second, wrong):
    """Such as rows that are as long as the longest of their request."""
    parts = iter([{"y": np.zeros((3, 3))}, second, second])
    server.add_model("odd", lambda a: next(parts), [X], [Y])
    with pytest.raises(InvalidArgument, match=wrong):
        client.predict("odd", ROWS, batch_size=3)


def test_a_part_with_other_outputs_is_an_error_of_the_client():
    with pytest.raises(InvalidArgument, match="outputs: got z for a part of the rows, expected y"):
        check_part({"z": ROWS}, 7, {"y": ROWS})


def test_a_batch_size_of_all_rows_is_one_request(client, server):
    client.predict("mean", ROWS, batch_size=7)
    client.predict("double", ROWS, batch_size=np.int64(100))
    assert len(requests(server)) == 2


def test_a_request_that_is_too_large_is_divided_by_itself(client, server, monkeypatch):
    monkeypatch.setattr(row_parts, "PART_BYTES", 24)  # two rows of three float32
    assert client.predict("double", ROWS).tolist() == (2 * ROWS).tolist()
    assert [len(decode(request.inputs[0])) for request in requests(server)] == [2, 2, 2, 1]


def test_rows_that_depend_on_one_another_are_not_divided(client, server, monkeypatch):
    with pytest.raises(
        InvalidArgument,
        match="model 'mean': its outputs aren't computed row by row: got a batch_size for 7 rows, expected none; "
        "without it they are sent in one request",
    ):
        client.predict("mean", ROWS, batch_size=3)
    assert requests(server) == []
    monkeypatch.setattr(row_parts, "PART_BYTES", 24)
    assert client.predict("mean", ROWS).tolist() == (ROWS - ROWS.mean(0)).tolist()
    assert len(requests(server)) == 1


def test_a_version_that_was_not_loaded_is_asked_again(client):
    assert client.predict("late", ROWS, batch_size=3).tolist() == ROWS.tolist()


def test_a_tensor_without_a_row_for_each_row_is_refused_by_name(client, server, monkeypatch):
    with pytest.raises(InvalidArgument, match=r"output 'sum': got shape \(3,\) for 2 rows, expected a row for each"):
        client.predict("sum", ROWS, outputs=["y", "sum"], batch_size=2)
    monkeypatch.setattr(row_parts, "PART_BYTES", 24)
    server.calls.clear()
    assert client.predict("sum", ROWS, outputs="sum").tolist() == ROWS.sum(0).tolist()
    assert len(requests(server)) == 1, "tensors other than the outputs aren't divided unless that is asked for"


def test_inputs_with_different_numbers_of_rows_are_named(client):
    inputs = {"left": np.ones((5, 2)), "right": np.ones((4, 2))}
    with pytest.raises(InvalidArgument, match="inputs: got left has 5, right has 4, expected the same number of rows"):
        client.predict("two", inputs, batch_size=2)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "3"])
def test_a_batch_size_is_a_whole_number(client, size):
    with pytest.raises(InvalidArgument, match=f"batch_size: got {size!r}, expected a whole number from 1"):
        client.predict("double", ROWS, batch_size=size)


@pytest.mark.parametrize(("timeout", "expected"), [(None, [20, 20, 20, 20]), (7, [7])])
def test_the_default_timeout_is_that_of_each_request(client, monkeypatch, timeout, expected):
    begun = []

    class Noted(connection.Deadline):
        def __init__(self, seconds):
            begun.append(seconds)
            super().__init__(seconds)

    for module in ("calls.blocking", "calls.api"):
        monkeypatch.setattr(f"layerserve.{module}.Deadline", Noted)
    client.predict("double", ROWS, batch_size=3, timeout=timeout)
    assert begun == expected


class OnDisk:
    """What is sliced, and never read as a whole, as an h5py dataset."""

    shape, dtype, longest = (7, 3), np.dtype("float64"), 0

    def __len__(self):
        return 7

    def __getitem__(self, rows):
        self.longest = max(self.longest, rows.stop - rows.start)
        return ROWS[rows]

    def __array__(self, dtype=None, copy=None):
        self.longest = 7
        return ROWS


def test_what_is_on_disk_is_read_part_by_part(client):
    data = OnDisk()
    assert client.predict("double", data, batch_size=2).tolist() == (2 * ROWS).tolist()
    assert data.longest == 2


def test_the_size_is_that_of_the_request():
    text = TensorSpec("t", (None,), "string")
    values = np.array(["ab", "c"], dtype=object)
    assert Rows.of([ROWS.astype(np.float64), values], [X, text]).bytes == 7 * 3 * 4 + 3 + 8
    assert part_size(Rows.of(np.zeros((PART_BYTES // 4, 3)), [X]), None) == PART_BYTES // 12
    assert part_size(Rows.of(np.zeros((1, PART_BYTES)), [TensorSpec("x", (None, None), "float32")]), None) == 0


def test_both_clients_take_it():
    for kind in (Client, AsyncClient):
        for method in (kind.predict, kind.predict_named):
            assert "batch_size" in (method.__kwdefaults__ or {})


class Tensor:
    """A tensor as TensorFlow has it: its dtype is no NumPy's, and its shape no tuple."""

    dtype = "a dtype of its own"

    def __init__(self, values):
        self._values = np.asarray(values)
        self.shape = type("Shape", (list,), {})(self._values.shape)

    def __len__(self):
        return len(self._values)

    def __getitem__(self, rows):
        return Tensor(self._values[rows])

    def __array__(self, dtype=None, copy=None):
        return self._values


def test_tensors_of_other_packages_are_divided(client):
    assert client.predict("double", Tensor(ROWS), batch_size=3).tolist() == (2 * ROWS).tolist()
    assert client.predict("double", {"x": Tensor(ROWS)}).tolist() == (2 * ROWS).tolist()
    text = TensorSpec("t", (None,), "string")
    assert Rows.of(Tensor(["ab", "c"]), [text]).bytes > 0
