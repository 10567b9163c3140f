"""What is chosen for requests that name no version can answer them: the default and the canary."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from layerserve_server.errors import ServerError
from layerserve_server.repository import layout
from layerserve_server.repository.control import Control
from layerserve_server.repository.entry import Entry
from layerserve_server.repository.layout import FoundVersion
from layerserve_server.repository.model_settings import ModelSettings
from layerserve_server.repository.record import ModelRecord
from layerserve_server.repository.version_states import State

#: What a version may be: its state, whether it is on standby, and why it may not be loaded.
KINDS = [
    (State.READY, False, ""),
    (State.READY, False, "another version is served"),
    (State.AVAILABLE, True, ""),
    (State.AVAILABLE, True, "another version is served"),
    (State.AVAILABLE, False, ""),
    (State.LOADING, True, ""),
    (State.LOADING, False, ""),
    (State.FAILED, True, ""),
    (State.FAILED, False, "another version is served"),
    (State.UNLOADING, False, "another version is served"),
    (State.UNLOADING, False, ""),
]


def entry(version: int, state: State, standby: bool, barred: str) -> Entry:
    loaded: Any = SimpleNamespace(version=version) if state is State.READY else None
    found = FoundVersion("m", version, Path("m"), layout.NOTHING)
    return Entry(found, state, loaded=loaded, standby=standby, barred=barred)


def answers(entry: Entry) -> bool:
    """Whether a request gets this version, or has it loaded."""
    try:
        entry.check_usable()
    except ServerError:
        return False
    return entry.loaded is not None or entry.standby


@pytest.mark.parametrize("pinned", [None, 1, 2, 3])
@pytest.mark.parametrize("last", [None, 1, 2])
def test_what_is_chosen_answers(pinned: int | None, last: int | None) -> None:
    settings = ModelSettings(canary="50 %", canary_label="next")
    for kinds in product(KINDS, KINDS):
        versions = {number: entry(number, *kind) for number, kind in enumerate(kinds, 1)}
        record = ModelRecord("m", versions=versions, labels={"next": 2}, settings=settings, last_default=last)
        record.control = Control(pinned=pinned)
        working = [number for number, one in versions.items() if answers(one)]
        default = record.default()
        if pinned is None:
            assert default == max(working, default=None), kinds
        else:
            assert default == next((number for number in (pinned, last) if number in working), None), kinds
        if default is not None:
            assert record.entry(None, None) is versions[default]
        canary = record.canary()
        assert (canary is not None) == (2 in working and default != 2), kinds
        assert canary is None or canary.version == 2
