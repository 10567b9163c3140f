"""What a training process says of its end."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
from layergraph.errors import DataError, NonFiniteLossError
from layerserve_server.errors import InvalidRequestError
from layerserve_server.training.process.reporting import Position, numbers
from layerserve_server.training.program.main import _failure
from layerserve_server.training.run_folder.result import RunResult


@pytest.mark.parametrize(
    ("error", "reason", "place", "resumable"),
    [
        (NonFiniteLossError(float("nan"), 3, 4), "loss is nan in step 4 of epoch 3", (3, 4), False),
        (DataError("labels: got 10"), "labels: got 10", (1, 2), False),
        (InvalidRequestError("data file 'x' has changed"), "data file 'x' has changed", (1, 2), False),
        (MemoryError(), "out of memory", (1, 2), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory", (1, 2), True),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "there is no space left on the server's disk", (1, 2), True),
        (KeyError("secret"), "internal error (KeyError); see the run's log", (1, 2), False),
    ],
)
def test_every_end_has_its_reason(error, reason, place, resumable, capsys):
    try:
        raise error
    except Exception as raised:  # as in the process, so that there is a traceback
        outcome = _failure(raised, Position(1, 2))
    assert reason in outcome.reason
    assert ((outcome.epoch, outcome.step), outcome.resumable) == (place, resumable)
    assert ("secret" in capsys.readouterr().err) == ("internal" in reason)


def test_an_outcome_comes_back_from_its_folder(tmp_path):
    outcome = RunResult("trained", epoch=3, seconds=1.5, logs={"loss": 0.5}, withheld="no better")
    outcome.write(tmp_path)
    assert RunResult.read(tmp_path) == outcome
    # A run that was cancelled before its first epoch is in none.
    assert (RunResult("cancelled").epoch, RunResult("cancelled").step) == (0, 0)
    (tmp_path / "outcome.json").write_text("{")
    assert RunResult.read(tmp_path) is None


def test_texts_of_an_outcome_have_a_length(tmp_path):
    RunResult("failed", "x" * 10**6, withheld="y" * 10**6).write(tmp_path)
    assert (tmp_path / "outcome.json").stat().st_size < 4000
    assert RunResult.read(tmp_path).reason.endswith("xxx ...")


def test_metrics_of_several_numbers_are_told_one_by_one():
    assert numbers({"f1": [0.5, 1.0], "loss": 2}) == {"f1[0]": 0.5, "f1[1]": 1.0, "loss": 2.0}
    told = numbers({"loss": 0.5, "f1": np.arange(10**6)})
    assert len(told) == 1001
    assert (told["loss"], told["f1[999]"]) == (0.5, 999.0)
