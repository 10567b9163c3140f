"""Whose a run is, and to whom its model is open when it begins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from layerserve_server.access.reserved import UNREADABLE, Restriction
from layerserve_server.services.run_access import owned
from layerserve_server.training.request import RunRequest


@pytest.mark.parametrize(
    ("restriction", "callers"),
    [
        (None, None),
        (Restriction(("ann", "team-*")), ("ann", "team-*")),
        (Restriction(()), ()),
        # Callers who manage the model may still train it. Such a run must not be open to all.
        (UNREADABLE, ()),
    ],
)
def test_a_run_is_as_open_as_its_model(restriction: Restriction | None, callers: tuple[str, ...] | None) -> None:
    restrictions = {} if restriction is None else {"m": restriction}
    repository: Any = SimpleNamespace(catalogue=SimpleNamespace(restrictions=restrictions))
    caller: Any = SimpleNamespace(owner="ann")
    request = owned(RunRequest("m", 1, ()), caller, repository)
    assert (request.caller, request.callers) == ("ann", callers)
