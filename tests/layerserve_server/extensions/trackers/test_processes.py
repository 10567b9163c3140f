"""The processes of sinks, with a program in place of a tracker."""

from __future__ import annotations

import sys

from layerserve_server.extensions.trackers import main, processes
from layerserve_server.extensions.trackers.processes import SinkProcesses

#: Writes a line for each start, and ends at once the first time; else with its standard input.
PROGRAM = """
import os, sys
path = os.environ["PLACE"]
with open(path, "a") as file:
    print(os.environ[sys.argv[1]], file=file)
if len(open(path).readlines()) > 1:
    sys.stdin.read()
    with open(path, "a") as file:
        print("ended", file=file)
"""


def test_a_process_has_its_settings_starts_again_and_ends_with_the_server(tmp_path, monkeypatch, wait_until, caplog):
    place = tmp_path / "lines"
    place.touch()
    monkeypatch.setenv("PLACE", str(place))
    monkeypatch.setattr(processes, "RESTART_SECONDS", 0.01)
    made = SinkProcesses(["tracker:address"], tmp_path, tmp_path)
    made._command = [sys.executable, "-c", PROGRAM, main.SINK]
    made.start()
    wait_until(lambda: place.read_text() == "tracker:address\n" * 2)
    made.stop()
    assert place.read_text() == "tracker:address\n" * 2 + "ended\n"
    assert [record.getMessage() for record in caplog.records] == ["run sink tracker ended with status 0"]
