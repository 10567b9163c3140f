"""What training leaves to serving."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from clocks import replace_time
from layerserve_server.training.process import priority

PROGRAM = """
import os
from pathlib import Path
from layerserve_server.training.process.priority import lower_priority
lower_priority({nice})
autogroup = Path("/proc/self/autogroup")
print(os.nice(0), autogroup.read_text().split()[-1] if autogroup.exists() else "none")
"""


@pytest.mark.parametrize("nice", [0, 7])
def test_a_session_stands_back_as_far_as_its_process(nice: int) -> None:
    command = [sys.executable, "-c", PROGRAM.format(nice=nice)]
    done = subprocess.run(command, start_new_session=True, capture_output=True, text=True, check=True)
    niceness, of_session = done.stdout.split()
    # There is no lower priority than 19.
    assert int(niceness) == min(19, os.nice(0) + nice)
    if Path("/proc/self/autogroup").exists():
        assert of_session == niceness


def test_a_session_that_must_wait_its_turn_stands_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users without rights get EAGAIN if another session was set just before."""
    written: list[str] = []

    class Autogroup:
        def write_text(self, text: str) -> None:
            if len(slept) < 3:
                raise BlockingIOError
            written.append(text)

    slept: list[float] = []
    replace_time(monkeypatch, priority, sleep=slept.append)
    monkeypatch.setattr(priority, "_AUTOGROUP", Autogroup())
    priority.lower_priority(0)
    assert written == [str(os.nice(0))]
