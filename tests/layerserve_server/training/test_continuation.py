"""Checkpoints that a run goes on from: what is gone meanwhile is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from layerserve.training.options.contract import RUN
from layerserve_server.errors import UnknownCheckpointError
from layerserve_server.training.continuation import CONTINUED, EVALUATED, NEUTRAL, Start
from layerserve_server.training.request import RunRequest
from layerserve_server.training.runs.checkpoints import Checkpoint


def test_a_run_that_was_deleted_meanwhile_is_named(tmp_path: Path) -> None:
    start = Start(tmp_path / "run-1", Checkpoint("c-2", 1, 0, 0, 0.0), RunRequest(model="m", version=1, data=()))
    with pytest.raises(UnknownCheckpointError, match="checkpoint 'run-1/c-2' was removed"):
        assert start.model
    with pytest.raises(UnknownCheckpointError, match="checkpoint 'run-1/c-2' was removed"):
        start.copy(tmp_path / "new")


def test_options_of_how_to_train_are_taken_over_and_those_of_what_becomes_of_it_are_not() -> None:
    publication = {"publish", "publish_if_improved", "publish_label", "expected_base_version", "on_conflict"}
    checkpoints = {
        "checkpoint_every_epochs",
        "checkpoint_every_steps",
        "keep_best_checkpoints",
        "keep_checkpoints",
    }
    of_the_run = {"description", "idempotency_key", "metadata", "priority", "from_checkpoint", "epochs"}
    without_effect_on_numbers = {"checkpoint_seconds"}
    own = publication | checkpoints | of_the_run | without_effect_on_numbers
    assert {option.name for option in RUN} - {*CONTINUED} == own
    assert NEUTRAL | {*EVALUATED} < {*CONTINUED}
