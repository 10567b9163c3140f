"""A shutdown ends in bounded time, whatever its steps do."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator

import pytest
from layerserve_server.transport import shutdown
from layerserve_server.transport.shutdown import Shutdown


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """Is set after the test."""
    event = threading.Event()
    yield event
    event.set()


def test_steps_that_never_end_are_left_and_the_others_done(
    never: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []

    def steps() -> None:
        stop.step("a load", never.wait, math.inf)
        stop.step("a download", never.wait, math.inf)
        stop.step("runs", lambda: done.append("runs"))

    stop = Shutdown(end_seconds=0.2)
    began = time.monotonic()
    stop.run(0.2, steps)
    assert 0.4 <= time.monotonic() - began < 10
    assert done == ["runs"]
    assert [record.getMessage() for record in caplog.records] == [
        "stopping without waiting any longer for a load",
        "stopping without waiting any longer for a download",
    ]


def test_a_step_has_its_own_time(never: threading.Event) -> None:
    stop = Shutdown(end_seconds=600)
    began = time.monotonic()
    stop.run(600, lambda: stop.step("a scan", never.wait, 0.1))
    assert time.monotonic() - began < 60


def test_a_second_call_shortens_the_time_and_waits(never: threading.Event) -> None:
    waits = threading.Event()

    def steps() -> None:
        waits.set()
        stop.step("open calls", never.wait, math.inf)

    stop = Shutdown(end_seconds=0.1)
    first = threading.Thread(target=stop.run, args=(600, steps), daemon=True)
    first.start()
    assert waits.wait(30)
    stop.run(0, lambda: pytest.fail("the steps are done once"))
    first.join(30)
    assert not first.is_alive()


def test_a_step_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    stop, done = Shutdown(), []

    def steps() -> None:
        stop.step("the sweeps", lambda: 1 // 0)
        stop.step("runs", lambda: done.append(1))

    stop.run(0, steps)
    assert done == [1]
    assert "the server stops, but failed to stop the sweeps" in caplog.text


def test_what_is_left_for_the_last_steps_is_less_than_deployments_give() -> None:
    assert shutdown.LEFT_SECONDS < shutdown.END_SECONDS < 10
