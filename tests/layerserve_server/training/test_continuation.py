"""Checkpoints that a run goes on from: what is gone meanwhile is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from layerserve_server.errors import UnknownCheckpointError
from layerserve_server.training.continuation import Start
from layerserve_server.training.request import RunRequest
from layerserve_server.training.runs.checkpoints import Checkpoint


def test_a_run_that_was_deleted_meanwhile_is_named(tmp_path: Path) -> None:
    start = Start(tmp_path / "run-1", Checkpoint("c-2", 1, 0, 0, 0.0), RunRequest(model="m", version=1, data=()))
    with pytest.raises(UnknownCheckpointError, match="checkpoint 'run-1/c-2' was removed"):
        assert start.model
    with pytest.raises(UnknownCheckpointError, match="checkpoint 'run-1/c-2' was removed"):
        start.copy(tmp_path / "new")
