"""The time budget of tuning, with a clock that the tests set."""

from __future__ import annotations

import pytest
from layergraph.execution.tuning import time_budget as allowance
from layergraph.execution.tuning.time_budget import Allowance, NoTimeError


class Clock:
    """Replaces the module `time`."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    stand_in = Clock()
    monkeypatch.setattr(allowance, "time", stand_in)
    return stand_in


def test_it_runs_out_with_the_clock_and_never_below_nothing(clock: Clock) -> None:
    given = Allowance(5.0)
    assert given.left == 5.0
    clock.now += 3.5
    assert given.left == 1.5
    clock.now += 10.0
    assert given.left == 0.0


def test_there_is_none_once_it_is_stopped(clock: Clock) -> None:
    stopped = False
    given = Allowance(5.0, lambda: stopped)
    assert given.left == 5.0
    stopped = True
    assert given.left == 0.0
    with pytest.raises(NoTimeError):
        given.require(0.0)


@pytest.mark.parametrize(
    ("seconds", "kept", "fits"),
    [(0.0, 0.0, True), (5.0, 0.0, True), (5.1, 0.0, False), (3.0, 2.0, True), (3.1, 2.0, False), (0.0, 5.0, False)],
)
def test_a_step_must_leave_what_is_kept(clock: Clock, seconds: float, kept: float, fits: bool) -> None:
    given = Allowance(5.0)
    if fits:
        given.require(seconds, kept)
        return
    with pytest.raises(NoTimeError, match=f"{5.0 - kept:.1f} s remain, expected to take {seconds:.1f} s"):
        given.require(seconds, kept)


def test_time_in_which_the_machine_is_busy_does_not_count(clock: Clock) -> None:
    given = Allowance(5.0, busy=lambda: clock.now < 160.0)
    given.require(4.0)
    assert clock.now == pytest.approx(160.0, abs=0.2)
    assert given.left == pytest.approx(5.0)


def test_no_step_is_waited_for_once_it_is_stopped(clock: Clock) -> None:
    given = Allowance(5.0, lambda: clock.now > 101.0, busy=lambda: True)
    with pytest.raises(NoTimeError):
        given.require(0.0)
    assert clock.now < 102.0
