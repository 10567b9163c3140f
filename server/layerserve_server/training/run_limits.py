"""Limits of a server's runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Limits on number, size and duration of runs; see the settings of the same names.

    `max_bytes` and `max_written` are in bytes, `cancel_grace_seconds` in seconds.
    """

    slots: int
    max_queued: int
    max_bytes: int
    max_kept: int
    cancel_grace_seconds: float
    auto_resume: bool = True
    max_workers: int = 1
    max_written: int = 16 << 30
