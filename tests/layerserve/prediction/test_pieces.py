"""What is sent or received in several pieces is whole, and is compared as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from layerserve import DataLoss, TensorSpec
from layerserve.models import changes as model_changes
from layerserve.testing import fake_models
from layerserve.testing.fake_run import FakeRun
from layerserve.training import data as training_data
from layerserve.v1 import training_pb2

#: Bytes of a piece, so that small data has many.
SMALL = 24
ROWS = 11
X, Y = TensorSpec("x", (None, 3), "float32"), TensorSpec("y", (None, 3), "float32")
NUMBERS = np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3)
TEXT = np.array([f"row {number}" for number in range(ROWS)])[:, None]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_data, "CHUNK_BYTES", SMALL)
    monkeypatch.setattr(model_changes, "CHUNK", SMALL)
    monkeypatch.setattr(fake_models, "DOWNLOAD_BYTES", SMALL)


class Received:
    """The chunks and digests of the arrays of runs, in the order in which they came."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chunks: dict[int, list[bytes]] = {}
        self.digests: dict[int, bytes] = {}
        receive, check = FakeRun.receive, FakeRun.check

        def noted(run: FakeRun, chunk: training_pb2.DataChunk) -> None:
            assert chunk.array not in self.digests, "data after its digest"
            self.chunks.setdefault(chunk.array, []).append(chunk.data)
            receive(run, chunk)

        def compared(run: FakeRun, digest: training_pb2.DataDigest) -> None:
            assert digest.array not in self.digests, "two digests"
            self.digests[digest.array] = digest.sha256
            check(run, digest)

        monkeypatch.setattr(FakeRun, "receive", noted)
        monkeypatch.setattr(FakeRun, "check", compared)


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Received:
    return Received(monkeypatch)


@pytest.mark.parametrize("method", ["train", "evaluate"])
@pytest.mark.parametrize("x", [NUMBERS, NUMBERS[:1], NUMBERS.astype(np.float64)], ids=["many", "one row", "cast"])
def test_each_array_of_a_run_has_one_digest_of_all_its_pieces(client, received, method, x):
    getattr(client, method)("double", x, x + 1, sample_weight=np.ones(len(x)))
    whole = {index: b"".join(parts) for index, parts in received.chunks.items()}
    sent = [x, x + 1, np.ones(len(x))]
    assert whole == {index: array.astype(np.float32).tobytes() for index, array in enumerate(sent)}
    assert received.digests == {index: hashlib.sha256(data).digest() for index, data in whole.items()}
    if len(x) > 1:
        assert [len(parts) for parts in received.chunks.values()] == [6, 6, 2]


def test_text_of_a_run_has_a_digest_of_all_its_pieces():
    text = training_data.TrainingArray(training_pb2.DATA_ROLE_X, "x", TEXT, "string")
    upload = training_data.Upload(training_pb2.TrainSpec(), [text])
    upload.accept()
    _, *chunks, last = upload
    whole = b"".join(request.chunk.data for request in chunks)
    assert len(chunks) > 3
    assert whole.count(b"row ") == ROWS
    assert last.digest == training_pb2.DataDigest(array=0, sha256=hashlib.sha256(whole).digest())


@pytest.mark.parametrize("broken", [0, 3, -1], ids=["first", "middle", "last"])
def test_any_piece_of_a_run_that_is_damaged_is_found_out(client, monkeypatch, broken):
    receive, came = FakeRun.receive, []

    def damaged(run: FakeRun, chunk: training_pb2.DataChunk) -> None:
        came.append(chunk.array)
        wrong = chunk.array == 1 and came.count(1) == (broken % 6) + 1
        receive(run, training_pb2.DataChunk(array=chunk.array, data=bytes(len(chunk.data)) if wrong else chunk.data))

    monkeypatch.setattr(FakeRun, "receive", damaged)
    with pytest.raises(DataLoss, match="array 1: the data doesn't match its digest"):
        client.train("double", NUMBERS, NUMBERS + 1)


@pytest.mark.parametrize("size", [1, SMALL, SMALL + 1, 10 * SMALL])
def test_a_file_of_any_size_is_uploaded_whole(client, server, tmp_path, size):
    content = bytes(number % 251 for number in range(size))
    (tmp_path / "m.keras").write_bytes(content)
    client.upload("double", tmp_path / "m.keras")
    assert server.uploaded == {"model.keras": content}


class OnTheWay(bytes):
    """A file whose pieces are changed on the way; its digest is that of what it is."""

    def __new__(cls, content: bytes, change: Callable[[int, bytes], bytes]) -> OnTheWay:
        made = super().__new__(cls, content)
        made.change = change
        return made

    def __getitem__(self, at: Any) -> Any:
        return self.change(at.start // SMALL, super().__getitem__(at))


FILE = bytes(range(256))


@pytest.mark.parametrize(
    ("change", "whole"),
    [
        (lambda piece, data: data, True),
        (lambda piece, data: data if piece != 10 else b"", False),
        (lambda piece, data: data if piece else b"", False),
        (lambda piece, data: data if piece != 3 else b"", False),
        (lambda piece, data: data if piece != 10 else data + b"x", False),
        (lambda piece, data: data if piece != 3 else data * 2, False),
        (lambda piece, data: data if piece != 3 else bytes(SMALL), False),
    ],
    ids=["nothing", "last lost", "first lost", "one lost", "one byte more", "one twice", "one damaged"],
)
def test_a_file_of_which_a_piece_is_wrong_is_not_kept(client, server, tmp_path, change, whole):
    server.add_model("file", lambda a: {"y": a["x"]}, [X], [Y], file=OnTheWay(FILE, change))
    if whole:
        assert client.download("file", tmp_path / "m.keras").read_bytes() == FILE
        return
    with pytest.raises(DataLoss, match="got SHA-256"):
        client.download("file", tmp_path / "m.keras")
    assert list(tmp_path.iterdir()) == []
