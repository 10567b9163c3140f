"""Time of a test's own for one module.

`monkeypatch.setattr(module.time, ...)` would change the time of the whole process: of threads that other tests left,
and of pytest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest


def replace_time(monkeypatch: pytest.MonkeyPatch, module: ModuleType, **functions: Callable[..., object]) -> None:
    """Replaces functions of `time` (monotonic, sleep, ...) for the code of one module."""
    monkeypatch.setattr(module, "time", SimpleNamespace(**{**vars(time), **functions}))
