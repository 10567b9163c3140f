"""Damage of files that a server writes for itself and can do without."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from layerserve_server import records

#: Texts that are no object.
TEXTS = ("", "\0" * 100, "null", "1", '"x"', "[]", "NaN", "[" * 5000, "1" * 5000)
DAMAGES = (*TEXTS, "a folder", "too large", "a dangling link")


def check_goes_on(
    file: Path,
    read: Callable[[], object],
    damage: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    *,
    named: bool,
) -> None:
    """Checks that nothing is read of a damaged file, and that the log names it once, if it is to be `named`."""
    if damage == "a folder":
        file.mkdir()
    elif damage == "a dangling link":
        file.symlink_to(file.with_name("gone"))
    elif damage == "too large":
        monkeypatch.setattr(records, "MAX_BYTES", 100)
        file.write_text(json.dumps({"x" * 100: {}}))
    else:
        file.write_text(damage)
    for _ in range(2):
        assert not read()
    told = sum(str(file) in record.getMessage() for record in caplog.records)
    assert told == (named and damage != "a dangling link")
