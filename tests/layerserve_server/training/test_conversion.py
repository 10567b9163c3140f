"""Files are converted in a process of its own, which may cost what it likes up to its limits."""

from __future__ import annotations

import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from layergraph import Input, Model, layers, load_model
from layergraph.errors import ConfigError, DataError
from layerserve_server.errors import (
    CallCancelledError,
    InvalidRequestError,
    TooLargeError,
    VersionFailedError,
)
from layerserve_server.inference import runner
from layerserve_server.jobs import channel, failures, table
from layerserve_server.jobs.channel import Channel, JobDiedError
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.training import conversion
from layerserve_server.training.conversion import Converter
from shared_jobs import SharedJobs


@pytest.fixture(name="converter")
def _converter(jobs: SharedJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Converter:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return Converter(jobs)


def saved(path: Path, units: int = 2) -> Path:
    x = Input((4,), name="x")
    model = Model(x, layers.Dense(units, name="y")(x))
    model.compile("muon", "mse")
    model.save(path)
    return path


def test_the_file_is_there_until_the_block_ends(converter: Converter, tmp_path: Path) -> None:
    with converter.converted(saved(tmp_path / "m.keras"), "keras3_h5", 10) as path:
        assert path.name == "model.h5"
        assert load_model(path).count_params() == 10
    assert not list((tmp_path / "temporary").glob("layerserve-*"))


def test_what_a_format_cannot_hold_is_refused(converter: Converter, tmp_path: Path) -> None:
    path = saved(tmp_path / "m.keras")
    with (
        pytest.raises(InvalidRequestError, match="optimizer Muon isn't supported"),
        converter.converted(path, "keras2_h5", 10),
    ):
        pass
    assert not list((tmp_path / "temporary").glob("layerserve-*"))


def test_a_conversion_ends_with_its_caller(
    converter: Converter, jobs: SharedJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Long before the process has been forked and has read the file.
    monkeypatch.setattr(channel, "GONE_CHECK_SECONDS", 0.0001)
    path = saved(tmp_path / "m.keras")
    with pytest.raises(CallCancelledError), converter.converted(path, "keras3_h5", 10, lambda: True):
        pass
    assert not list((tmp_path / "temporary").glob("layerserve-*"))
    assert converter._slots._value == conversion.MAX_CONVERSIONS  # type: ignore[attr-defined]
    assert jobs._warm._process is not None
    children = Path(f"/proc/{jobs._warm._process.pid}/task/{jobs._warm._process.pid}/children")
    end = time.monotonic() + 30
    while children.read_text():
        assert time.monotonic() < end, "the process goes on"


def test_what_is_no_model_fails(converter: Converter, tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_bytes(b"no model")
    with (
        pytest.raises(VersionFailedError, match=r"converting file m\.keras fails: ."),
        converter.converted(tmp_path / "m.keras", "", 1),
    ):
        pass


def test_what_takes_more_memory_than_it_may_is_too_large(jobs: SharedJobs, tmp_path: Path) -> None:
    path = saved(tmp_path / "m.keras", units=200_000)
    with (
        pytest.raises(TooLargeError, match=r"converting file m\.keras takes more than 1048576 bytes of memory"),
        Converter(jobs.with_limits(20.0, 1 << 20)).converted(path, "keras3_h5", 0),
    ):
        pass


@pytest.mark.parametrize(
    ("died", "said"),
    [
        (JobDiedError(0, late=True), "takes more than 600 seconds of processor time$"),
        (JobDiedError(signal.SIGSEGV, late=False), "its process was ended by signal SIGSEGV"),
    ],
    ids=["late", "crashed"],
)
def test_a_process_that_dies_costs_its_caller_only(died: JobDiedError, said: str, tmp_path: Path) -> None:
    class Dying(Jobs):
        @contextmanager
        def connection(self, job: table.Job, *_: object) -> Iterator[Channel]:
            assert job is table.CONVERT
            raise died
            yield

    with pytest.raises(TooLargeError, match=said), Converter(Dying()).converted(tmp_path / "m.keras", "", 1):
        pass


# What the child does, in this process.


@pytest.mark.parametrize(("format", "name"), [("", "model.keras"), ("keras3_h5", "model.h5")])
def test_a_child_takes_one_thread_and_writes_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, format: str, name: str
) -> None:
    done: list[object] = []
    monkeypatch.setattr(torch, "set_num_threads", lambda count: done.append(("threads", count)))
    monkeypatch.setattr(runner, "load_plugins", lambda: done.append("plugins"))
    source, folder = saved(tmp_path / "m.keras"), tmp_path / "there"
    folder.mkdir()
    told = conversion.convert({"source": str(source), "folder": str(folder), "format": format}, Channel(None))
    assert told == {"file": name}
    assert done == [("threads", 1), "plugins"]
    assert [path.name for path in folder.iterdir()] == [name]
    for one, other in zip(load_model(folder / name).get_weights(), load_model(source).get_weights(), strict=True):
        assert (one == other).all()


@pytest.mark.parametrize(
    ("raised", "error", "text"),
    [
        (MemoryError(), JobDiedError, "signal 0"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), JobDiedError, "signal 0"),
        (KeyError("secret"), VersionFailedError, "^converting fails with KeyError; see the server's log$"),
        (DataError("the weights are gone"), VersionFailedError, "^converting fails: the weights are gone$"),
        (ConfigError("no such layer"), InvalidRequestError, "^no such layer$"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_caller_is_told_what_it_may_know(raised: Exception, error: type[Exception], text: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Channel(theirs).send(failures.reply_of(raised))
        with pytest.raises(error, match=text):
            failures.check(Channel(ours).receive(), table.CONVERT, "converting")
