"""Versions wait to be tuned, but not those that were replaced meanwhile."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from layerserve_server.tuning import Tuner


def test_what_was_replaced_is_let_go(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()
    tuned = []

    def tune(self: Tuner, loaded: Any) -> None:
        begun.release()
        assert go_on.wait(30)
        tuned.append(loaded.name)

    monkeypatch.setattr(Tuner, "_tune", tune)
    first, second, third, fourth = [
        SimpleNamespace(name=name, version=1, retired=False, lease=nullcontext) for name in "abcd"
    ]
    tuner = Tuner(tmp_path, seconds=1.0, threads=1, max_bytes=1)
    tuner.start()
    try:
        tuner.submit(first)
        assert begun.acquire(timeout=30)
        tuner.submit(second)
        tuner.submit(third)
        second.retired = True
        tuner.submit(fourth)
        assert tuner._waiting == [third, fourth]
        go_on.set()
        for _ in (third, fourth):
            assert begun.acquire(timeout=30)
    finally:
        go_on.set()
        tuner.close()
    assert tuned == ["a", "c", "d"]
