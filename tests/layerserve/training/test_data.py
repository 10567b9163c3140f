from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layerserve import InvalidArgument, InvalidTensor, TensorSpec, UnknownOutput
from layerserve.training.data import CHUNK_BYTES, Upload, training_arrays
from layerserve.v1.training_pb2 import TrainSpec
from layerserve.values.tensors import decode_data

X = [TensorSpec("x", (None, 3), "float32")]
Y = [TensorSpec("y", (None, 1), "float32")]
TWO = [TensorSpec("a", (None, 1), "float32"), TensorSpec("b", (None, 1), "float32")]


class Rows:
    """Rows that are made when they are read, as those of a file are, and that remember what was read at once."""

    def __init__(self, count: int, width: int) -> None:
        self.shape = (count, width)
        self.dtype = np.dtype(np.float64)
        self.largest = 0

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        self.largest = max(self.largest, stop - start)
        return np.arange(start * self.shape[1], stop * self.shape[1], dtype=self.dtype).reshape(-1, self.shape[1])


def arrays(x, y, sample_weight=None, validation_data=None, inputs=X, outputs=Y):
    return training_arrays(x, y, sample_weight, validation_data, inputs, outputs)


def upload_of(data):
    """An upload that the server has accepted."""
    upload = Upload(TrainSpec(), data)
    upload.accept()
    return upload


def sent(upload):
    """The data of an upload, put together as a server does."""
    spec, *chunks = upload
    parts = [b""] * len(upload.arrays)
    for request in chunks:
        parts[request.chunk.array] += request.chunk.data
    assert spec.HasField("spec")
    return [decode_data(part, a.dtype, a.rows.shape) for part, a in zip(parts, upload.arrays, strict=True)]


def test_data_is_cut_into_bounded_chunks_of_whole_rows_read_one_at_a_time():
    rows = Rows(300_000, 3)
    upload = upload_of(arrays(rows, np.zeros(300_000)))
    sizes = [len(request.chunk.data) for request in upload if request.HasField("chunk")]
    assert max(sizes) <= CHUNK_BYTES
    assert all(size % 12 == 0 for size in sizes[:4])
    assert rows.largest <= CHUNK_BYTES // 12
    np.testing.assert_array_equal(sent(upload)[0], rows[0:300_000].astype(np.float32))


def test_a_row_larger_than_a_chunk_goes_alone():
    wide = np.ones((3, CHUNK_BYTES // 2), np.float32)
    spec = [TensorSpec("x", (None, None), "float32")]
    upload = upload_of(arrays(wide, np.zeros(3), inputs=spec))
    assert [len(request.chunk.data) for request in upload][1:4] == [2 * CHUNK_BYTES] * 3


def test_strings_are_cut_by_their_length():
    texts = np.array([["x" * 400_000]] * 6, dtype=object)
    upload = upload_of(arrays(texts, np.zeros(6), inputs=[TensorSpec("x", (None, 1), "string")]))
    sizes = [len(request.chunk.data) for request in upload if request.HasField("chunk")][:-1]
    assert len(sizes) == 2
    assert sent(upload)[0].tolist() == [[b"x" * 400_000]] * 6


def test_a_string_that_fills_a_chunk_goes_at_once():
    """With its length, which takes four bytes."""
    texts = np.array(["x" * (CHUNK_BYTES - 4), "y", "z"], dtype=object)
    upload = upload_of(arrays(texts, np.zeros(3), inputs=[TensorSpec("x", (None,), "string")]))
    sizes = [len(request.chunk.data) for request in upload if request.HasField("chunk")][:-1]
    assert sizes == [CHUNK_BYTES, 10]


def test_inputs_take_the_models_type_and_targets_keep_theirs_but_for_float64():
    data = arrays([[1, 2, 3]], np.array([5]), np.array([0.5]))
    assert [(array.text, array.dtype) for array in data] == [
        ("x['x']", "float32"),
        ("y['y']", "int64"),
        ("sample_weight['y']", "float32"),
    ]
    assert arrays([[1, 2, 3]], [0.5])[1].dtype == "float32"


def test_objects_that_are_numbers_are_sent_as_numbers():
    """Targets of pandas may be objects, of which only the first looks like an int."""
    targets = np.array([1, 0.5, True], object)
    upload = upload_of(arrays(np.zeros((3, 3)).astype(object), targets))
    assert [array.dtype for array in upload.arrays] == ["float32", "float32"]
    np.testing.assert_array_equal(sent(upload)[1], [1, 0.5, 1])


def test_tensors_that_numpy_cannot_read_are_refused():
    class WithGradients:
        shape, dtype = (2, 3), "float32"

        def __getitem__(self, rows):
            return self

        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")

    with pytest.raises(InvalidTensor, match=r"got WithGradients \(Can't call numpy"):
        arrays(WithGradients(), np.zeros(2))


def test_an_announcement_says_what_follows():
    announced = arrays(np.zeros((4, 3)), np.zeros((4, 1)))[0].announcement()
    assert (announced.name, list(announced.shape)) == ("x", [4, 3])


def test_targets_and_weights_of_several_outputs_come_by_name_or_position():
    x, y = np.zeros((2, 3)), np.zeros((2, 1))
    assert [array.text for array in arrays(x, [y, y], np.ones(2), outputs=TWO)][1:] == [
        "y['a']",
        "y['b']",
        "sample_weight",
    ]
    assert [array.text for array in arrays(x, {"b": y}, {"b": np.ones(2)}, outputs=TWO)][1:] == [
        "y['b']",
        "sample_weight['b']",
    ]
    assert [array.text for array in arrays(x, [y, None], [None, np.ones(2)], outputs=TWO)][1:] == [
        "y['a']",
        "sample_weight['b']",
    ]


def test_validation_data_is_announced_with_its_own_roles():
    x, y, w = np.zeros((2, 3)), np.zeros(2), np.ones(2)
    data = arrays(x, y, None, (x[:1], y[:1], w[:1]))
    assert [array.text for array in data][2:] == [
        "validation x['x']",
        "validation y['y']",
        "validation sample_weight['y']",
    ]


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"y": np.zeros(3)}, InvalidArgument, "x['x'] has 2, y['y'] has 3"),
        ({"sample_weight": np.zeros(1)}, InvalidArgument, "sample_weight['y'] has 1"),
        ({"x": np.zeros((0, 3)), "y": np.zeros(0)}, InvalidArgument, "got no rows"),
        ({"x": 1.0}, InvalidArgument, "got a scalar"),
        ({"y": {"z": np.zeros(2)}}, UnknownOutput, "unknown output 'z'"),
        ({"x": np.array([["a"] * 3] * 2)}, InvalidTensor, "got dtype string, expected float32"),
        ({"validation_data": np.zeros((2, 3))}, InvalidArgument, "expected (x, y) or (x, y, sample_weight)"),
        ({"validation_data": (np.zeros((1, 3)), np.zeros(2))}, InvalidArgument, "validation x['x'] has 1"),
        ({"x": [[1, 2, 3], [4]]}, InvalidTensor, "got rows of different lengths"),
    ],
)
def test_data_that_does_not_fit_is_refused_before_anything_is_sent(change, error, text):
    with pytest.raises(error) as caught:
        arrays(**{"x": np.zeros((2, 3)), "y": np.zeros(2), **change})
    assert text in str(caught.value)


def test_what_goes_wrong_while_it_is_cut_ends_the_stream_and_is_kept():
    ints = [TensorSpec("x", (None, 1), "int32")]
    late = np.array([[1.0]] * 300_000 + [[0.5]])
    upload = upload_of(arrays(late, np.zeros(300_001), inputs=ints))
    chunks = [request for request in upload if request.HasField("chunk")]
    assert len(chunks) == 1
    assert isinstance(upload.error, InvalidTensor)
    assert "0.5" in str(upload.error)


def test_rows_that_cannot_be_read_are_the_reason():
    class Gone(Rows):
        def __getitem__(self, rows: slice) -> np.ndarray:
            if rows.start:
                raise OSError("disk is gone")
            return super().__getitem__(rows)

    upload = upload_of(arrays(Gone(300_000, 3), np.zeros(300_000)))
    assert len(list(upload)) == 2
    assert "OSError: disk is gone" in str(upload.error)


def test_nothing_is_sent_before_the_server_accepts():
    upload = Upload(TrainSpec(), arrays(np.zeros((2, 3)), np.zeros(2)))
    requests = iter(upload)
    assert next(requests).HasField("spec")
    upload.abandon()
    assert list(requests) == []


class Batches:
    """As a PyDataset or a DataLoader has it."""

    def __len__(self):
        return 2

    def __iter__(self):
        return iter([(np.zeros((4, 3)), np.zeros(4))] * 2)


@pytest.mark.parametrize("given", [Batches(), (batch for batch in ())])
def test_what_yields_batches_is_no_array(given):
    with pytest.raises(
        InvalidArgument, match=r"x.*: got \w+, which yields batches, expected arrays with the rows of all"
    ):
        arrays(given, np.zeros(8))


@pytest.mark.parametrize("given", ["photos", Path("photos")])
def test_a_path_is_no_array(given):
    with pytest.raises(InvalidArgument, match=r"x.*: got .*photos.*, expected an array of rows; a file of the server"):
        arrays(given, np.zeros(8))


def test_batches_without_targets_are_named_as_such(client):
    with pytest.raises(InvalidArgument, match="x: got Batches, which yields batches"):
        client.train("double", Batches())
    with pytest.raises(InvalidArgument, match="y: got none, expected data"):
        client.train("double", np.zeros((4, 3)))
