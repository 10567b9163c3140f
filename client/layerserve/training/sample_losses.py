"""The loss of each row of an evaluation."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layerserve.calls.flow import Flow, work
from layerserve.models.signatures import Signatures
from layerserve.training.events import Logs
from layerserve.training.requests import evaluated, evaluation_request
from layerserve.training.run_files import download_file
from layerserve.values.tensors import Array

#: Name of the run's file.
FILE = "sample_losses.npz"


@dataclass(frozen=True, slots=True, eq=False)
class SampleLosses:
    """The losses of the rows of an evaluation, in the order of the rows.

    `losses` has "loss", all outputs together with their loss weights, and "NAME_loss" for each of several outputs. The
    loss of a row is the mean of its values (timesteps, pixels) before Keras reduces them, times the sample weights,
    without masked values; penalties of regularizers don't count. `logs` are those of `evaluate`, `run_id` is the run.
    """

    run_id: str
    logs: Logs
    losses: Mapping[str, Array]

    def worst(self, count: int = 10, name: str = "loss") -> Array:
        """Return the numbers of the rows with the highest losses, the highest first. A loss that is NaN is higher."""
        losses = self.losses[name]
        ranked = np.where(np.isnan(losses), np.inf, losses)
        return np.argsort(-ranked, kind="stable")[:count]


def sample_losses(
    signatures: Signatures,
    model: str,
    x: Any,
    y: Any,
    sample_weight: Any,
    version: int | None,
    label: str | None,
    options: Mapping[str, object],
) -> Flow[SampleLosses]:
    """Flow that evaluates a model and returns the losses of the rows."""
    spec, arrays = yield from evaluation_request(signatures, model, x, y, sample_weight, version, label, options)
    spec.sample_losses = True
    finished = yield from evaluated(spec, arrays)
    with tempfile.TemporaryDirectory(prefix="layerserve-losses-") as folder:
        path = yield from download_file(finished.run_id, FILE, folder)
        losses = yield from work(lambda: _read(path))
    return SampleLosses(finished.run_id, finished.logs, losses)


def _read(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
