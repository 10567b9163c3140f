"""What the wall clock can't tell: ages soon after a start, and after it was set."""

import time

import pytest
from layerserve_server import wall_clock
from layerserve_server.wall_clock import ClockJumps


@pytest.mark.parametrize(("step", "jumped"), [(0, False), (30, False), (-30, False), (3600, True), (-3600, True)])
def test_a_clock_that_is_set_is_noticed_once(step, jumped, monkeypatch):
    now, jumps = time.time, ClockJumps()
    monkeypatch.setattr(time, "time", lambda: now() + step)
    assert (jumps.seen(), jumps.seen()) == (jumped, False)


def test_soon_after_the_start_of_a_machine_its_clock_is_not_trusted(monkeypatch):
    for seconds, sure in ((1.0, False), (3599.0, False), (3600.0, True)):
        monkeypatch.setattr(time, "monotonic", lambda seconds=seconds: seconds)
        assert wall_clock.is_sure() is sure
