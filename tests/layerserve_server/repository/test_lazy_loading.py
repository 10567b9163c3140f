"""Loads that calls wait for: each call is answered once, whatever becomes of the load, and counted by its outcome."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from layerserve_server.errors import BusyError, UnavailableError, VersionFailedError
from layerserve_server.repository import layout
from layerserve_server.repository.entry import Entry
from layerserve_server.repository.layout import FoundVersion
from layerserve_server.repository.lazy_loading import LazyLoading
from layerserve_server.repository.version_states import State


class Calls:
    """Calls that wait for a version, and what they got."""

    def __init__(self) -> None:
        self.errors: list[Exception | None] = []
        self.outcomes: list[tuple[str, float]] = []
        self.ended = threading.Semaphore(0)

    def proceed(self, error: Exception | None) -> None:
        self.errors.append(error)
        self.ended.release()

    def awaited(self, outcome: str, seconds: float) -> None:
        self.outcomes.append((outcome, seconds))

    def wait(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.ended.acquire(timeout=30)


def entry_of(name: str) -> Entry:
    return Entry(FoundVersion(name, 1, Path(name), layout.NOTHING), State.AVAILABLE)


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def entry() -> Entry:
    return entry_of("a")


@pytest.fixture
def make(calls: Calls) -> Iterator[Callable[[Callable[[Entry, bool], None]], LazyLoading]]:
    made: list[LazyLoading] = []

    def make_lazy_loading(load: Callable[[Entry, bool], None]) -> LazyLoading:
        made.append(LazyLoading(load, calls.awaited))
        return made[-1]

    yield make_lazy_loading
    for lazy_loading in made:
        lazy_loading.close()


def loads(entry: Entry) -> None:
    entry.loaded = SimpleNamespace()  # type: ignore[assignment]


def waits(lazy_loading: LazyLoading, entry: Entry, calls: Calls, *, gone: bool = False) -> None:
    lazy_loading.want(entry, calls.proceed, lambda: gone)


def test_calls_are_counted_by_what_they_got(make: Any, calls: Calls, entry: Entry) -> None:
    def fails(entry: Entry, whole: bool) -> None:
        raise VersionFailedError("no weights")

    waits(make(fails), entry, calls)
    calls.wait()
    assert [(str(error), outcome) for error, (outcome, _) in zip(calls.errors, calls.outcomes, strict=True)] == [
        ("no weights", "failed")
    ]
    gate = threading.Event()

    def loads_later(entry: Entry, whole: bool) -> None:
        assert gate.wait(30)
        loads(entry)

    lazy_loading = make(loads_later)
    waits(lazy_loading, entry, calls)
    waits(lazy_loading, entry, calls, gone=True)
    assert entry.waiting == 2
    gate.set()
    calls.wait(2)
    assert calls.errors[1:] == [None, None]
    assert [outcome for outcome, _ in calls.outcomes[1:]] == ["loaded", "gone"]
    assert all(0 <= seconds < 30 for _, seconds in calls.outcomes)
    assert entry.waiting == 0


def test_an_error_that_nobody_expects_is_logged_and_ends_the_wait(
    make: Any, calls: Calls, entry: Entry, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(entry: Entry, whole: bool) -> None:
        raise ZeroDivisionError

    lazy_loading = make(fails)
    for _ in range(2):  # the next call has it tried again
        waits(lazy_loading, entry, calls)
        calls.wait()
    assert [type(error) for error in calls.errors] == [ZeroDivisionError] * 2
    assert [one.levelno for one in caplog.records] == [logging.ERROR] * 2
    assert "can't be loaded for requests" in caplog.text


def test_there_is_room_again_for_as_many_calls_as_were_answered(
    make: Any, calls: Calls, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerserve_server.repository.lazy_loading.MAX_WAITING", 3)
    gate = threading.Event()
    lazy_loading = make(lambda entry, whole: gate.wait(30))
    for _ in range(2):
        gate.clear()
        for _ in range(3):
            waits(lazy_loading, entry, calls)
        with pytest.raises(BusyError, match="3 calls are waiting for it") as refused:
            waits(lazy_loading, entry, calls)
        assert refused.value.retry_after == 0.5
        assert calls.outcomes[-1] == ("refused", 0.0)
        gate.set()
        calls.wait(3)


def test_after_the_end_no_load_begins(make: Any, calls: Calls, entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerserve_server.repository.lazy_loading.MAX_LOADS", 1)
    gate, begun = threading.Event(), threading.Event()
    loaded: list[Entry] = []

    def loads_later(entry: Entry, whole: bool) -> None:
        loaded.append(entry)
        begun.set()
        assert gate.wait(30)

    lazy_loading = make(loads_later)
    waits(lazy_loading, entry, calls)
    assert begun.wait(30)
    waits(lazy_loading, entry_of("b"), calls)
    lazy_loading.close()
    gate.set()
    # Both are answered: a call that waits in a thread would keep the process from ending.
    calls.wait(2)
    assert loaded == [entry]
    assert [type(error) for error in calls.errors] == [type(None), UnavailableError]
    with pytest.raises(UnavailableError, match="the server is stopping"):
        waits(lazy_loading, entry, calls)
    assert (lazy_loading._count, entry.waiting) == (0, 0)
