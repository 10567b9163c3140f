"""Samples of requests: rows and answers of a share of them, in files that training reads."""

from __future__ import annotations

import errno
import os
import shutil
import time

import numpy as np
import pytest
from layerserve.v1 import prediction_pb2, prediction_pb2_grpc, tensor_pb2
from layerserve.values import tensors
from layerserve.values.table_files.table import Selection
from layerserve_server.datasets import reader
from layerserve_server.datasets.data_file import DataFile
from layerserve_server.extensions.mirroring import sample_files
from layerserve_server.extensions.mirroring.sample_files import Sample, SampleFiles, keyed


def request(x, model="double", outputs=(), id=""):
    return prediction_pb2.PredictRequest(
        model=tensor_pb2.ModelSpec(name=model), inputs=[tensors.encode(x, "x")], outputs=outputs, id=id
    )


def rows(start, count):
    return np.arange(start, start + 2 * count, dtype=np.float32).reshape(count, 2)


def written(folder):
    """All rows of all files, by key."""
    found = [dict(np.load(path)) for path in sorted(folder.rglob("[!.]*.npz"))]
    return {key: np.concatenate([one[key] for one in found]) for key in (found[0] if found else ())}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "models" / ".layerserve" / "samples"


@pytest.mark.parametrize("quick", [False, True])
def test_rows_and_answers_are_in_files_that_training_reads(put, start, connect, folder, quick, finish):
    put("double")
    put("other")
    app = start(sample_models="double=1")
    with app.repository.leases.lease("double") as version:
        version.queue._thread_seconds = [0.0 if quick else 9.0] * len(version.queue._thread_seconds)
    stub = prediction_pb2_grpc.PredictionServiceStub(connect(app))
    for number in range(4):
        stub.Predict(request(rows(10 * number, number + 1), id=f"id {number}"), timeout=30)
    streamed = [prediction_pb2.PredictStreamRequest(request=request(rows(90, 1)))]
    list(stub.PredictStream(iter(streamed), timeout=30))
    # Not the outputs of the model, another model, and an error.
    stub.Predict(request(rows(50, 1), outputs=["hidden"]), timeout=30)
    stub.Predict(request(rows(60, 1), "other"), timeout=30)
    with pytest.raises(Exception, match="expected 0 or more"):
        stub.Predict(request(-rows(70, 1)), timeout=30)
    finish(app, 5)
    expected = np.concatenate([*(rows(10 * number, number + 1) for number in range(4)), rows(90, 1)])
    found = written(folder)
    np.testing.assert_array_equal(found["x"], expected)
    np.testing.assert_array_equal(found["y"], expected * 2)
    ids = [b"id 0", b"id 1", b"id 1", *[b"id 2"] * 3, *[b"id 3"] * 4, b""]
    assert found["request_id"].tolist() == ids
    assert np.abs(found["request_time"] - time.time()).max() < 60
    (path,) = folder.glob("double/1/*.npz")
    name = str(path.relative_to(folder))
    for key, dtype, shape in (("x", "float32", (11, 2)), ("y", "float32", (11, 2)), ("request_id", "string", (11,))):
        file, (described,) = reader.describe(DataFile(str(folder), name), [Selection(key=key)])
        assert (described.dtype, described.shape) == (dtype, shape)
        if key == "y":
            np.testing.assert_array_equal(reader.mapped(file, described), expected * 2)


def described(folder, path, key):
    return reader.describe(DataFile(str(folder), str(path.relative_to(folder))), [Selection(key=key)])[1][0]


def test_by_default_nothing_is_kept(put, start, connect, folder):
    put("double")
    app = start()
    prediction_pb2_grpc.PredictionServiceStub(connect(app)).Predict(request(rows(0, 1)), timeout=30)
    assert not folder.exists()


def test_a_model_has_its_own_share_which_is_changed_without_a_restart(put, start, connect, folder, tmp_path, finish):
    put("double")
    settings = tmp_path / "models" / "double" / "layerserve.toml"
    settings.write_text("sample_share = 0.0")
    app = start(sample_models="*=1")
    stub = prediction_pb2_grpc.PredictionServiceStub(connect(app))
    stub.Predict(request(rows(0, 1)), timeout=30)
    settings.write_text("sample_share = 1.0")
    with app.repository.leases.lease("double") as version:
        # Settings are in force once they are the same at two scans.
        app.repository.scan()
        app.repository.scan()
        assert not version.retired
    stub.Predict(request(rows(10, 2)), timeout=30)
    finish(app, 1)
    np.testing.assert_array_equal(written(folder)["x"], rows(10, 2))


def test_a_share_of_the_requests(put, start, connect, folder, monkeypatch, finish):
    put("double")
    app = start(sample_models="double=0.25")
    numbers = iter([0.1, 0.24, 0.25, 0.9])
    monkeypatch.setattr("layerserve_server.extensions.mirroring.samples.random.random", lambda: next(numbers))
    stub = prediction_pb2_grpc.PredictionServiceStub(connect(app))
    for number in range(4):
        stub.Predict(request(rows(10 * number, 1)), timeout=30)
    finish(app, 2)
    np.testing.assert_array_equal(written(folder)["x"], np.concatenate([rows(0, 1), rows(10, 1)]))


class Files:
    """Files in a folder, and what was dropped."""

    def __init__(self, folder, max_bytes=1 << 30):
        self.folder, self.lost = folder, 0
        self.files = SampleFiles(folder, max_bytes, self._drop)

    def _drop(self, count):
        self.lost += count

    def add(self, arrays, model="m", id=""):
        self.files.add(Sample(model, 1, arrays, len(next(iter(arrays.values()))), id, "", time.time()))


@pytest.fixture
def files(tmp_path):
    made = []

    def make(**options):
        made.append(Files(tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        one.files.close()


def test_rows_of_other_lengths_and_texts_are_in_other_files(files, tmp_path):
    kept = files()
    kept.add({"ids": np.ones((2, 3), np.int32)})
    kept.add({"ids": np.ones((1, 5), np.int32)})
    kept.add({"ids": np.ones((3, 3), np.int32)})
    # Names of the arguments of numpy.savez.
    kept.add({"file": np.ones((1, 2)), "a/b": np.ones((1, 2)), "allow_pickle": np.ones((1, 2))}, "named")
    texts = np.array([[b"a"], [b"longer \xff"]], object)
    kept.add(keyed({"text": texts}, {"text": np.array(["é", ""], object), "request_id": np.zeros(2)}), "t")
    kept.files.close()
    assert sorted(np.load(path)["ids"].shape for path in tmp_path.glob("m/1/*.npz")) == [(1, 5), (5, 3)]
    (path,) = tmp_path.glob("named/1/*.npz")
    for key in ("file", "a/b", "allow_pickle"):
        assert described(tmp_path, path, key).mapped
    (path,) = tmp_path.glob("t/1/*.npz")
    found = np.load(path)
    assert found["text"].tolist() == texts.tolist()
    assert found["output:text"].tolist() == ["é".encode(), b""]
    # An output of the model keeps its name.
    assert found["request_id"].tolist() == [0, 0]
    assert described(tmp_path, path, "text").dtype == "string"


def test_the_oldest_files_make_room(files, tmp_path, monkeypatch):
    monkeypatch.setattr(sample_files, "FILE_BYTES", 1000)
    kept = files(max_bytes=7000)
    for number in range(10):
        kept.add({"x": np.full((1, 250), number, np.float32)})
        kept.files._background.flush()
    found = sorted(int(np.load(path)["x"][0, 0]) for path in tmp_path.glob("m/1/*.npz"))
    assert found == [7, 8, 9]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 7000
    assert kept.lost == 0


def test_the_newest_file_stays_when_the_clock_was_set_back(files, tmp_path, monkeypatch):
    monkeypatch.setattr(sample_files, "FILE_BYTES", 1000)
    kept = files(max_bytes=7000)
    for number in range(6):
        kept.add({"x": np.full((1, 250), number, np.float32)})
        kept.files._background.flush()
        if number == 2:
            for order, path in enumerate(sorted(tmp_path.glob("m/1/*.npz"))):
                os.utime(path, (2**33 + order,) * 2)
    assert sorted(int(np.load(path)["x"][0, 0]) for path in tmp_path.glob("m/1/*.npz")) == [3, 4, 5]
    assert kept.lost == 0


def test_samples_do_not_wait_longer_when_the_clock_is_set_back(files, tmp_path, monkeypatch, wait_until):
    monkeypatch.setattr(sample_files, "FILE_SECONDS", 0.0)
    now = time.time
    kept = files()
    kept.add({"x": np.ones((1, 2))})
    monkeypatch.setattr(time, "time", lambda: now() - 1e6)
    wait_until(lambda: list(tmp_path.glob("m/1/2*.npz")))


def test_files_of_others_are_never_removed(files, tmp_path, monkeypatch):
    monkeypatch.setattr(sample_files, "FILE_BYTES", 1000)
    (tmp_path / "m" / "1").mkdir(parents=True)
    np.savez(tmp_path / "m" / "1" / "train.npz", x=np.zeros(5000))
    kept = files(max_bytes=7000)
    for number in range(10):
        kept.add({"x": np.full((1, 250), number, np.float32)})
        kept.files._background.flush()
    assert len(list(tmp_path.glob("m/1/2*.npz"))) == 3
    assert (tmp_path / "m" / "1" / "train.npz").exists()


def test_a_file_is_written_after_a_time(files, tmp_path, monkeypatch, wait_until):
    monkeypatch.setattr(sample_files, "FILE_SECONDS", 0.0)
    files().add({"x": np.ones((1, 2))})
    wait_until(lambda: list(tmp_path.glob("m/1/2*.npz")))


@pytest.mark.parametrize(
    ("small", "large"),
    [(np.ones((1, 12)), np.ones((1, 100))), (np.array([[b"a" * 92]], object), np.array([["a" * 900]], object))],
    ids=["numbers", "text"],
)
def test_what_finds_no_room_is_dropped(files, monkeypatch, small, large):
    monkeypatch.setattr(sample_files, "MAX_WAITING_BYTES", 100)
    kept = files()
    kept.add({"x": small})
    kept.add({"x": large})
    assert kept.lost == 1
    kept.files.close()
    assert kept.files._bytes == 0


def test_a_disk_that_can_not_be_written_costs_the_samples_only(files, tmp_path, caplog):
    kept = files()
    (tmp_path / "m").write_text("no folder")
    kept.add({"x": np.ones((1, 2))})
    kept.files._background.flush()
    kept.files._write(list(kept.files._open))
    assert (kept.lost, kept.files._bytes) == (1, 0)
    assert "samples of model 'm' can't be written" in caplog.text
    (tmp_path / "m").unlink()
    kept.add({"x": np.ones((1, 2))})
    kept.files.close()
    assert len(list(tmp_path.glob("m/1/*.npz"))) == 1
    shutil.rmtree(tmp_path / "m")


def test_a_disk_that_becomes_full_has_no_half_files(files, tmp_path, monkeypatch):
    def fill(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    kept = files()
    with monkeypatch.context() as full:
        full.setattr(sample_files.np.lib.format, "write_array", fill)
        kept.add({"x": np.ones((1, 2))})
        kept.files._background.flush()
        kept.files._write(list(kept.files._open))
    assert (kept.lost, list((tmp_path / "m" / "1").iterdir())) == (1, [])
