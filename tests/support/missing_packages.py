"""Settings whose packages aren't installed."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import pytest
from layerserve_server import extras
from layerserve_server.commands.settings_reader import read_settings


def check_named(monkeypatch: pytest.MonkeyPatch, flags: Sequence[str], missing: Collection[str], line: str) -> None:
    """Checks that settings are refused with a line, a pattern, where modules are missing, and only there."""

    def lack(*modules: str) -> None:
        monkeypatch.setattr(extras, "find_spec", lambda name: None if name in modules else name)

    lack()
    settings = read_settings(flags)
    assert extras.missing_extras(settings) == []
    lack(*missing)
    (found,) = extras.missing_extras(settings)
    assert re.fullmatch(line, found)
    assert extras.missing_extras(read_settings([])) == []
