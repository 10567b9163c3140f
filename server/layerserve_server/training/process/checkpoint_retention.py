"""Keeping checkpoints of a run by its policy, and the checkpoint of the best epoch for publication."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from layergraph import Model
from layergraph.errors import ConfigError

from layerserve_server.training import events
from layerserve_server.training.budget import folder_bytes
from layerserve_server.training.checkpoint_policy import Policy
from layerserve_server.training.finite import not_finite
from layerserve_server.training.model import larger_is_better, monitored
from layerserve_server.training.process.reporting import numbers
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.checkpoints import Checkpoint, KeptCheckpoints, best_of, checkpoint_id
from layerserve_server.training.run_folder.layout import BASE, BEST, KEPT


@dataclass(frozen=True, slots=True)
class _Store:
    """Kept checkpoints, and the policy by which they are."""

    kept: KeptCheckpoints
    policy: Policy
    #: Whether the run fails if a checkpoint can't be kept; else it goes on.
    needed: bool = False

    def is_among_best(self, epoch: int, score: float | None) -> bool:
        """Whether an epoch is one of the best so far. Of equal ones the earliest count."""
        if score is None:
            return False
        better = [one for one in best_of(self.kept.list()) if one.epoch != epoch and one.rank < (-score, epoch)]
        return len(better) < self.policy.keep_best

    def prune(self) -> None:
        """Removes what the policy doesn't keep any more. Raises OSError."""
        known = self.kept.list()
        stay = {one.id for one in best_of(known)[: self.policy.keep_best]}
        stay |= {one.id for one in [one for one in known if one.periodic][-(self.policy.keep or len(known)) :]}
        for one in known:
            if one.id not in stay:
                self.kept.remove(one.id)


class CheckpointRetention:
    """Keeps checkpoints in the folder of a run that is training."""

    def __init__(self, folder: Path, request: RunRequest, model: Model, report: Callable[[events.What], None]) -> None:
        """`report` writes an event. Removes what a killed process has left. Raises OSError."""
        self._folder = folder
        self._request = request
        self._model = model
        self._report = report
        self._log = monitored(request)
        self._stores = [_Store(KeptCheckpoints(folder / KEPT), Policy.of(request))]
        if request.publish == "best":
            self._stores.append(_Store(KeptCheckpoints(folder / BEST), Policy(keep_best=1), True))
        for store in self._stores:
            store.kept.sweep()
        #: The stores that keep the next checkpoint, each with whether it is due by epochs or steps, and its score.
        self._due: list[tuple[_Store, bool]] = []
        self._due_score: float | None = None
        #: Why the last checkpoint wasn't kept; empty if it was.
        self._refused = ""

    def is_due_after_step(self, step: int) -> bool:
        """Whether a checkpoint is to be kept after this step of the run, counted from 1."""
        self._due = [(store, True) for store in self._stores if store.policy.follows_step(step)]
        self._due_score = None
        return bool(self._due)

    def is_due_after_epoch(self, epoch: int, logs: Mapping[str, Any]) -> bool:
        """Whether a checkpoint is to be kept after this epoch, counted from 1.

        Raises ConfigError as `larger_is_better` does, if the policy needs it.
        """
        score = self._due_score = self._score(logs) if self._is_finite() else None
        due = [(store, store.policy.follows_epoch(epoch)) for store in self._stores]
        self._due = [(store, periodic) for store, periodic in due if periodic or store.is_among_best(epoch, score)]
        return bool(self._due)

    def _is_finite(self) -> bool:
        """Whether the present weights may be the best: the logs are of those before an epoch's last step."""
        ranks = any(store.policy.keep_best for store in self._stores)
        return not ranks or not not_finite(self._model, self._folder / BASE)

    @property
    def needed(self) -> bool:
        """Whether the run can't go on without the checkpoint that is due."""
        return any(store.needed for store, _ in self._due)

    def keep(self, state: Mapping[str, Any], file: Path) -> None:
        """Keeps a checkpoint, if one is due: `file` holds its `state`. Raises OSError if it is `needed`."""
        due, self._due = self._due, []
        for store, periodic in due:
            one = _described(state, file, self._due_score, periodic)
            try:
                self._check_budget(one)
                store.kept.put(one, file)
                store.prune()
            except OSError as error:
                if store.needed:
                    raise
                self.refuse(state, error)
                continue
            if store is self._stores[0]:
                self._refused = ""
                self._report(events.Checkpoint(one.id, one.epoch, one.step, one.bytes))

    def keep_missed(self, state: Mapping[str, Any], file: Path) -> None:
        """Keeps the checkpoint that a run resumes from, if a killed process has written it and not kept it.

        Raises as `is_due_after_epoch` and `keep` do.
        """
        epoch, step = _place(state)
        if step:
            self.is_due_after_step(state.get("steps", 0))
        else:
            self.is_due_after_epoch(epoch, state["logs"])
        id = checkpoint_id(epoch, step)
        self._due = [one for one in self._due if all(kept.id != id for kept in one[0].kept.list())]
        self.keep(state, file)

    def refuse(self, state: Mapping[str, Any], error: OSError) -> None:
        """Reports that the checkpoint of a state can't be kept."""
        self._due = []
        if self._refused != (reason := str(error.strerror)):
            # Once, as the next ones mostly can't be kept for the same reason.
            self._refused = reason
            self._report(events.Log(f"checkpoint {checkpoint_id(*_place(state))} isn't kept: {reason}"))

    def _check_budget(self, one: Checkpoint) -> None:
        """Raises OSError if the next checkpoint and the result wouldn't fit into the run's budget with this one."""
        most = self._request.budget.max_disk_bytes
        if most and folder_bytes(self._folder) + 2 * one.bytes > most:
            raise OSError(0, f"with it the run needs more than its budget of {most} bytes of disk")

    def _score(self, logs: Mapping[str, Any]) -> float | None:
        """Returns the monitored value, negated if small values are better; None if there is none."""
        value = logs.get(self._log)
        if value is None or np.ndim(value) or math.isnan(float(value)):
            return None
        try:
            sign = 1.0 if larger_is_better(self._model, self._log, self._request.monitor_mode) else -1.0
        except ConfigError:
            if any(store.policy.keep_best for store in self._stores):
                raise
            return None
        return sign * float(value)


def _place(state: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the epoch of a state, from 1, and the number of its steps that are done; 0 after its end."""
    return (state["epoch"] + 1, state["step"]) if state["step"] else (state["epoch"], 0)


def _described(state: Mapping[str, Any], file: Path, score: float | None, periodic: bool) -> Checkpoint:
    epoch, step = _place(state)
    logs = numbers(state["running" if step else "logs"])
    id = checkpoint_id(epoch, step)
    return Checkpoint(id, epoch, step, file.stat().st_size, time.time(), logs, score, periodic)
