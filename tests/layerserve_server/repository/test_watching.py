"""The thread that watches the repository: each scan is called, whatever the others raise."""

from __future__ import annotations

import threading

import pytest
from layerserve_server.repository.watching import Watcher


def test_a_scan_that_fails_stops_neither_the_others_nor_the_next(caplog: pytest.LogCaptureFixture) -> None:
    twice, calls = threading.Event(), []

    def fails() -> None:
        raise PermissionError(13, "Permission denied")

    def works() -> None:
        calls.append(threading.current_thread())
        if len(calls) == 2:
            twice.set()

    watcher = Watcher(0.001, fails, works)
    watcher.stop()  # before the start, nothing
    watcher.wait()
    watcher = Watcher(0.001, fails, works)
    watcher.start()
    assert twice.wait(30)
    watcher.stop()
    watcher.wait()
    done = len(calls)
    assert not calls[0].is_alive()
    assert "the scan of the repository failed; retrying in 0.001 s" in caplog.text
    assert len(calls) == done
