"""Which checkpoints a run keeps."""

from __future__ import annotations

import errno
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from layergraph.errors import ConfigError
from layerserve.training.options.contract import Budget
from layerserve_server.errors import InvalidRequestError
from layerserve_server.training import checkpoint_policy, events
from layerserve_server.training.checkpoint_policy import Policy, check_policy
from layerserve_server.training.process.checkpoint_retention import CheckpointRetention
from layerserve_server.training.process.checkpoints import RunCheckpoints
from layerserve_server.training.request import EVALUATION, DataArray, Role, RunRequest
from layerserve_server.training.run_folder.checkpoints import KeptCheckpoints
from layerserve_server.training.run_folder.layout import BEST, CHECKPOINTS, KEPT

MODEL: Any = SimpleNamespace(log_direction={"loss": "down", "accuracy": "up"}.get, weights=())


def request(**options: Any) -> RunRequest:
    return RunRequest("m", 1, (DataArray(Role.X, "x", "float32", (10, 1)),), **{"batch_size": 4, **options})


class Training:
    """Writes checkpoints as `fit` does: three steps an epoch, and losses of epochs as given."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.told: list[Any] = []
        self.folder = folder
        self.retention = CheckpointRetention(folder, request(**options), MODEL, self.told.append)
        self.checkpoints = RunCheckpoints(folder / CHECKPOINTS, 1e9, self.retention)

    def train(self, *losses: float, first: int = 0) -> list[str]:
        for epoch, loss in enumerate(losses, first):
            for step in (1, 2, 3):
                if self.checkpoints.due_after_batch():
                    self.checkpoints.write(self._state(epoch, step, {"loss": loss + 1}))
            if self.checkpoints.due_after_epoch({"loss": loss, "accuracy": loss}):
                self.checkpoints.write(self._state(epoch + 1, 0, {"loss": loss}))
        return self.kept(KEPT)

    def _state(self, epoch: int, step: int, logs: dict[str, float]) -> dict[str, Any]:
        return {"epoch": epoch, "step": step, "steps": epoch * 3 + step, "logs": logs, "running": logs}

    def kept(self, name: str) -> list[str]:
        return [one.id for one in KeptCheckpoints(self.folder / name).list()]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, []),
        ({"checkpoint_every_epochs": 2}, ["e2", "e4"]),
        ({"checkpoint_every_steps": 4}, ["e2s1", "e3s2", "e4s3"]),
        ({"checkpoint_every_epochs": 3, "checkpoint_every_steps": 5}, ["e2s2", "e3", "e4s1", "e5s3"][:3]),
        ({"keep_checkpoints": 2}, ["e3", "e4"]),
        ({"keep_checkpoints": 2, "checkpoint_every_steps": 3}, ["e3s3", "e4s3"]),
        ({"keep_best_checkpoints": 2}, ["e2", "e4"]),
        ({"keep_best_checkpoints": 1, "monitor": "accuracy"}, ["e1"]),
        ({"keep_best_checkpoints": 1, "monitor_mode": "max"}, ["e1"]),
        ({"keep_best_checkpoints": 1, "keep_checkpoints": 1, "checkpoint_every_epochs": 3}, ["e2", "e3"]),
        ({"publish": "best"}, []),
    ],
    ids=str,
)
def test_the_policy_decides_what_is_kept(tmp_path: Path, options: dict[str, Any], kept: list[str]) -> None:
    training = Training(tmp_path, **options)
    assert training.train(4.0, 1.0, 3.0, 2.0) == kept
    told = [one.id for one in training.told]
    assert set(kept) <= set(told)
    assert len(set(told)) == len(told)
    assert training.kept(BEST) == (["e2"] if options.get("publish") else [])


def test_of_equal_epochs_the_earliest_is_best_and_no_number_is_none(tmp_path: Path) -> None:
    assert Training(tmp_path / "a", keep_best_checkpoints=1).train(math.nan, 2.0, 2.0, math.inf) == ["e2"]


def test_a_note_says_what_was_measured_where(tmp_path: Path) -> None:
    Training(tmp_path, checkpoint_every_epochs=1, checkpoint_every_steps=2).train(4.0, 3.0)
    found = KeptCheckpoints(tmp_path / KEPT).list()
    told = [(one.id, one.epoch, one.step, one.logs, one.score) for one in found]
    assert told == [
        ("e1s2", 1, 2, {"loss": 5.0}, None),
        ("e1", 1, 0, {"loss": 4.0}, -4.0),
        ("e2s1", 2, 1, {"loss": 4.0}, None),
        ("e2s3", 2, 3, {"loss": 4.0}, None),
        ("e2", 2, 0, {"loss": 3.0}, -3.0),
    ]
    assert all(one.bytes == KeptCheckpoints(tmp_path / KEPT).path(one.id).stat().st_size for one in found)


def test_a_log_without_a_direction_is_no_score_unless_the_policy_needs_one(tmp_path: Path) -> None:
    assert Training(tmp_path, checkpoint_every_epochs=1, monitor="other").train(1.0) == ["e1"]
    model: Any = SimpleNamespace(log_direction=lambda name: None, weights=())
    retention = CheckpointRetention(tmp_path / "b", request(keep_best_checkpoints=1), model, print)
    with pytest.raises(ConfigError, match=r"name it as monitor=.loss:max. or .loss:min."):
        retention.is_due_after_epoch(1, {"loss": 1.0})


@pytest.mark.parametrize("options", [{"publish": "best"}, {"checkpoint_every_epochs": 1}, {"keep_best_checkpoints": 1}])
def test_a_checkpoint_that_a_killed_process_has_written_is_kept_when_the_run_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """The run goes on after the epoch, whose end doesn't come again."""
    name = BEST if "publish" in options else KEPT
    training = Training(tmp_path, **options)
    training.train(3.0)
    with monkeypatch.context() as patch:
        patch.setattr(training.retention, "keep", lambda state, file: None)  # killed before
        training.train(2.0, first=1)
    assert training.kept(name) == ["e1"]
    for _ in range(2):  # and killed once more
        again = Training(tmp_path, **options)
        assert again.checkpoints.read() is not None
    assert again.told == []
    assert again.kept(name) == (["e1", "e2"] if "checkpoint_every_epochs" in options else ["e2"])
    again.train(2.5, first=2)
    assert again.kept(name)[-1] == ("e3" if "checkpoint_every_epochs" in options else "e2")


def test_a_resumed_run_repeats_its_checkpoints_and_keeps_them_once(tmp_path: Path) -> None:
    Training(tmp_path, keep_best_checkpoints=1, keep_checkpoints=2).train(1.0, 3.0, 2.0)
    again = Training(tmp_path, keep_best_checkpoints=1, keep_checkpoints=2)
    assert again.checkpoints.read() is not None
    assert again.train(2.5, first=3) == ["e1", "e3", "e4"]


@pytest.mark.parametrize("full", ["while it is written", "while it is kept"])
def test_a_run_goes_on_without_a_checkpoint_that_the_disk_has_no_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    training = Training(tmp_path, checkpoint_every_epochs=1)
    training.train(4.0)

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        where = "layergraph.training.checkpoint.os.fsync" if full == "while it is written" else "sync"
        if full == "while it is written":
            patch.setattr(where, fails)
        else:
            patch.setattr("layerserve_server.training.run_folder.checkpoints.sync", fails)
        training.train(3.0, 2.0, first=1)
    assert [one.text for one in training.told if isinstance(one, events.Log)] == [
        "checkpoint e2 isn't kept: No space left on device"
    ]
    assert training.train(1.0, first=3) == ["e1", "e4"]
    assert not list((tmp_path / KEPT).glob(".*"))


def test_a_run_fails_if_the_best_epoch_can_not_be_kept_for_publication(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    training = Training(tmp_path, publish="best")
    monkeypatch.setattr("layerserve_server.training.run_folder.checkpoints.sync", fails)
    with pytest.raises(OSError, match="No space"):
        training.train(4.0)


def test_a_checkpoint_is_left_out_rather_than_the_budget_exceeded(tmp_path: Path) -> None:
    Training(tmp_path / "a", checkpoint_every_epochs=1).train(4.0)
    size = KeptCheckpoints(tmp_path / "a" / KEPT).list()[0].bytes
    # Three at once: two that are kept, and one while it is written.
    budget = Budget(max_disk_bytes=int(3.9 * size))
    (tmp_path / "b").mkdir()
    training = Training(tmp_path / "b", checkpoint_every_epochs=1, budget=budget)
    assert training.train(4.0, 3.0, 2.0) == ["e1"]
    assert [one.text for one in training.told if isinstance(one, events.Log)] == [
        f"checkpoint e2 isn't kept: with it the run needs more than its budget of {budget.max_disk_bytes} bytes of disk"
    ]


@pytest.mark.parametrize(
    ("options", "kept", "written"),
    [
        ({"epochs": 7}, 0, 0),
        ({"epochs": 7, "checkpoint_every_epochs": 2}, 3, 3),
        # 3 steps an epoch.
        ({"epochs": 7, "checkpoint_every_steps": 5}, 4, 4),
        ({"epochs": 7, "checkpoint_every_steps": 5, "steps_per_epoch": 2}, 2, 2),
        ({"epochs": 7, "checkpoint_every_steps": 5, "validation_split": 0.5}, 2, 2),
        ({"epochs": 7, "keep_checkpoints": 2}, 2, 7),
        ({"epochs": 7, "keep_best_checkpoints": 9}, 7, 0),
        ({"epochs": 7, "keep_best_checkpoints": 2, "keep_checkpoints": 3, "checkpoint_every_epochs": 3}, 4, 2),
    ],
    ids=str,
)
def test_what_will_be_kept_is_known_before(options: dict[str, Any], kept: int, written: int) -> None:
    one = request(**options)
    assert (Policy.of(one).kept(one), Policy.of(one).written(one)) == (kept, written)
    assert checkpoint_policy.kept_files(one) == kept
    assert checkpoint_policy.kept_files(request(**options, kind=EVALUATION)) == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"checkpoint_every_epochs": 1, "epochs": 1001}, "would keep 1001 of them, expected at most 1000"),
        (
            {"checkpoint_every_steps": 1, "epochs": 50_000, "keep_checkpoints": 5},
            "would write 150000 of them, expected at most 100000",
        ),
    ],
)
def test_too_many_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequestError, match=text):
        check_policy(request(**options))
    check_policy(request(**{**options, "epochs": 10}))


def test_the_best_epoch_is_kept_for_publication_without_another_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = KeptCheckpoints.put

    def full(kept: KeptCheckpoints, *arguments: Any) -> None:
        if kept.folder == tmp_path / KEPT:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(kept, *arguments)

    training = Training(tmp_path, publish="best", checkpoint_every_epochs=1)
    monkeypatch.setattr(KeptCheckpoints, "put", full)
    assert training.train(4.0, 3.0) == []
    assert training.kept(BEST) == ["e2"]
