"""Files are converted in a process of its own, which may cost what it likes up to its limits."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path

import pytest
import torch
from layergraph import Input, Model, layers, load_model
from layergraph.errors import DataError
from layerserve_server.errors import (
    BusyError,
    CallCancelledError,
    InvalidRequestError,
    TooLargeError,
    VersionFailedError,
)
from layerserve_server.forking import fork_server
from layerserve_server.inference import runner
from layerserve_server.training import conversion
from layerserve_server.training.conversion import CONVERT, Converter
from layerserve_server.training.process.warm_parent import JobDiedError, JobLimits, WarmParent

GIB = 1 << 30


@pytest.fixture(name="converter")
def _converter(parent: WarmParent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Converter:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return Converter(parent, GIB)


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
    converter: Converter, parent: WarmParent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Long before the process has been forked and has read the file.
    monkeypatch.setattr(fork_server, "GONE_CHECK_SECONDS", 0.0001)
    path = saved(tmp_path / "m.keras")
    with pytest.raises(CallCancelledError), converter.converted(path, "keras3_h5", 10, lambda: True):
        pass
    assert not list((tmp_path / "temporary").glob("layerserve-*"))
    assert converter._slots._value == conversion.MAX_CONVERSIONS  # type: ignore[attr-defined]
    assert parent._process is not None
    children = Path(f"/proc/{parent._process.pid}/task/{parent._process.pid}/children")
    end = time.monotonic() + 30
    while children.read_text():
        assert time.monotonic() < end, "the process goes on"


def test_what_is_no_model_fails(converter: Converter, tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_bytes(b"no model")
    with (
        pytest.raises(VersionFailedError, match=r"converting file m\.keras failed: ."),
        converter.converted(tmp_path / "m.keras", "", 1),
    ):
        pass


def test_what_takes_more_memory_than_it_may_is_too_large(parent: WarmParent, tmp_path: Path) -> None:
    path = saved(tmp_path / "m.keras", units=4_000_000)
    with (
        pytest.raises(TooLargeError, match=r"converting file m\.keras takes more than 1048576 bytes of memory"),
        Converter(parent, 1 << 20).converted(path, "keras3_h5", 0),
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
    class Dying(WarmParent):
        def run(self, job: str, arguments: object, limits: JobLimits, gone: object) -> dict[str, object]:
            assert job == CONVERT
            raise died

    with pytest.raises(TooLargeError, match=said), Converter(Dying(), GIB).converted(tmp_path / "m.keras", "", 1):
        pass


def test_no_more_than_so_many_at_once(converter: Converter, tmp_path: Path) -> None:
    path = saved(tmp_path / "m.keras")
    for _ in range(conversion.MAX_CONVERSIONS):
        converter._slots.acquire()
    with pytest.raises(BusyError) as caught, converter.converted(path, "", 10):
        pass
    assert caught.value.retry_after == conversion.RETRY_SECONDS
    converter._slots.release()
    with converter.converted(path, "", 10):
        pass


def test_one_conversion_does_not_keep_others_waiting(converter: Converter) -> None:
    with converter.working() as first, converter.working() as second:
        assert first != second


# What the child does, in this process.


@pytest.fixture(name="child")
def _child(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What a conversion does to its process before it begins."""
    done: list[object] = []
    monkeypatch.setattr(os, "nice", lambda more: done.append(("nice", more)))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: done.append(("threads", count)))
    monkeypatch.setattr(runner, "load_plugins", lambda: done.append("plugins"))
    return done


@pytest.mark.parametrize(("format", "name"), [("", "model.keras"), ("keras3_h5", "model.h5")])
def test_a_child_stands_back_takes_one_thread_and_writes_the_file(
    child: list[object], tmp_path: Path, format: str, name: str
) -> None:
    source, folder = saved(tmp_path / "m.keras"), tmp_path / "there"
    folder.mkdir()
    told = conversion.convert({"source": str(source), "folder": str(folder), "format": format})
    assert told == {"file": name}
    assert child == [("nice", 10), ("threads", 1), "plugins"]
    assert [path.name for path in folder.iterdir()] == [name]
    for one, other in zip(load_model(folder / name).get_weights(), load_model(source).get_weights(), strict=True):
        assert (one == other).all()


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (MemoryError(), {"memory": True}),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), {"memory": True}),
        (KeyError("secret"), {"failure": "KeyError"}),
        (DataError("the weights are gone"), {"failure": "the weights are gone"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_child_tells_of_its_end_what_a_caller_may_know(
    child: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, told: dict[str, object]
) -> None:
    def fail() -> None:
        raise raised

    monkeypatch.setattr(runner, "load_plugins", fail)
    assert conversion.convert({"source": "m.keras", "folder": str(tmp_path), "format": ""}) == told
    assert list(tmp_path.iterdir()) == []
