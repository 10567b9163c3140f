"""Processes of a run with several workers."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Starts a process that ends with this one, which then waits. Both hold standard output.
PARENT = """
import os, sys, time
from layerserve_server.training.process.workers import end_with_parent
if os.fork() == 0:
    end_with_parent()
    print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end a process with its parent")
def test_a_worker_ends_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        parent.kill()
        # The output ends once no process has it open.
        assert parent.communicate(timeout=30) == (b"", None)
