"""Keys of calls: whose they are, and what happens while a call begins its work."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from layerserve.v1.training_pb2 import TrainSpec
from layerserve_server.access.caller import Caller
from layerserve_server.errors import UnavailableError
from layerserve_server.services.idempotency import IdempotencyKeys


def test_a_key_is_held_while_its_callers_work_begins_and_only_for_that_caller(tmp_path: Path) -> None:
    work: Any = SimpleNamespace(id="r", folder=tmp_path, request=SimpleNamespace(kind=""))
    keys: IdempotencyKeys[Any] = IdempotencyKeys("run", lambda owner, key, exists: None)

    def begin(caller: str, make: Any = lambda: work) -> tuple[Any, bool]:
        return keys.begin(Caller(caller), "k", "", TrainSpec(), make)

    def meanwhile() -> Any:
        assert begin("bob") == (work, False)
        with pytest.raises(UnavailableError, match="another call with idempotency key 'k' begins its run; try again"):
            begin("ann")
        return work

    assert begin("ann", meanwhile) == (work, False)
    assert begin("ann") == (work, False)
