"""Estimates of runs before their data is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from layerserve.calls.flow import Flow, call
from layerserve.calls.methods import ESTIMATE_RUN
from layerserve.errors import InvalidArgument
from layerserve.models.signatures import Signatures
from layerserve.training.requests import evaluation_request, training_request
from layerserve.v1 import training_pb2
from layerserve.v1.training_pb2 import EstimateRunRequest
from layerserve.values.tables import Table, Tabular, size_text, time_text
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import NUMPY_DTYPES


@dataclass(frozen=True, slots=True)
class EstimatedSeconds:
    """Where the time of a run goes, in seconds. `step` is that of one step, `total` the sum of the others."""

    total: float
    start: float
    steps: float
    validation: float
    checkpoints: float
    result: float
    step: float


@dataclass(frozen=True, slots=True)
class EstimatedPublication:
    """What a run would publish: the version's likely number, its label, weights and size, in bytes.

    With `if_improved` it is published only if that log improves on the version from which the run starts.
    """

    version: int
    label: str
    weights: Literal["last", "best"]
    if_improved: str
    bytes: int


@dataclass(frozen=True, slots=True)
class RunEstimate(Tabular):
    """What a run would take, and give.

    `problems` are all that is wrong with the request, as far as it can be found; `train` would raise the first one.
    With problems, the fields from `trainable_parameters` on may be None.

    `rows` and `steps_per_epoch` are those of an epoch, `steps` those of all epochs, `validation_steps` those of the
    validation after each epoch; `data_bytes` is what would be sent. `memory_bytes` is the maximum memory of the run's
    processes, without data that is mapped from files, and `disk_bytes` the maximum size of the run's folder, both as
    `Resources` limits them. `seconds` are counted from the moment when the run leaves the
    queue; `wait_seconds` is the time until then, None if it isn't known, and `ahead` the number of runs before it.
    """

    model: str
    base_version: int
    problems: tuple[str, ...]
    rows: int
    steps_per_epoch: int
    steps: int
    validation_steps: int
    data_bytes: int
    trainable_parameters: int | None
    non_trainable_parameters: int | None
    memory_bytes: int | None
    disk_bytes: int | None
    seconds: EstimatedSeconds | None
    wait_seconds: float | None
    ahead: int
    publication: EstimatedPublication | None

    def table(self) -> Table:
        """Returns a table with a row per property that is known."""
        rows = [("Problem", text) for text in self.problems]
        rows += [(name, text) for name, text in _properties(self) if text]
        return Table(f"Estimate: {self.model} version {self.base_version}", ("Property", "Value"), rows)


def _properties(estimate: RunEstimate) -> list[tuple[str, str]]:
    seconds, publication = estimate.seconds, estimate.publication
    wait = "" if estimate.wait_seconds is None else f", in {time_text(estimate.wait_seconds)}"
    steps = f"{estimate.steps:,}: {estimate.steps_per_epoch:,} in an epoch of {estimate.rows:,} rows"
    validation = f"{estimate.validation_steps:,} after each epoch"
    return [
        ("Steps", steps if estimate.steps else ""),
        ("Validation steps", validation if estimate.validation_steps else ""),
        ("Data to send", size_text(estimate.data_bytes) if estimate.steps else ""),
        ("Trainable parameters", _count_text(estimate.trainable_parameters)),
        ("Other parameters", _count_text(estimate.non_trainable_parameters)),
        ("Memory, at most", _size_text(estimate.memory_bytes)),
        ("Disk space, at most", _size_text(estimate.disk_bytes)),
        ("Time", "" if seconds is None else f"{time_text(seconds.total)}: {_parts_text(seconds)}"),
        ("Before it", f"{estimate.ahead} runs{wait}" if estimate.ahead else "no run"),
        ("Publishes", "" if publication is None else _publication_text(publication)),
    ]


def _parts_text(seconds: EstimatedSeconds) -> str:
    parts = {name: getattr(seconds, name) for name in ("start", "steps", "validation", "checkpoints", "result")}
    return ", ".join(f"{name} {time_text(value)}" for name, value in parts.items() if value)


def _publication_text(publication: EstimatedPublication) -> str:
    label = f", label {publication.label}" if publication.label else ""
    condition = f", if {publication.if_improved} improves" if publication.if_improved else ""
    weights = f"{publication.weights} weights, {size_text(publication.bytes)}"
    return f"version {publication.version}{label}{condition}: {weights}"


def _count_text(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def _size_text(count: int | None) -> str:
    return "" if count is None else size_text(count)


def estimate_training(
    signatures: Signatures,
    model: str,
    x: Any,
    y: Any,
    sample_weight: Any,
    validation_data: Any,
    version: int | None,
    label: str | None,
    options: Mapping[str, object],
) -> Flow[RunEstimate]:
    """Flow that estimates a training run."""
    if isinstance(validation_data, (tuple, list)):
        validation_data = tuple(map(_declared, validation_data))
    data = _declared(x), _declared(y), _declared(sample_weight), validation_data
    spec, _ = yield from training_request(signatures, model, *data, version, label, options)
    reply = yield from call(ESTIMATE_RUN, EstimateRunRequest(train=spec))
    return _read(reply)


def estimate_evaluation(
    signatures: Signatures,
    model: str,
    x: Any,
    y: Any,
    sample_weight: Any,
    version: int | None,
    label: str | None,
    options: Mapping[str, object],
) -> Flow[RunEstimate]:
    """Flow that estimates an evaluation."""
    data = _declared(x), _declared(y), _declared(sample_weight)
    spec, _ = yield from evaluation_request(signatures, model, *data, version, label, options)
    reply = yield from call(ESTIMATE_RUN, EstimateRunRequest(evaluate=spec))
    return _read(reply)


def _declared(value: Any) -> Any:
    """Returns data with each TensorSpec replaced by an array of its shape and dtype, which takes no memory."""
    if isinstance(value, TensorSpec):
        if value.dtype not in NUMPY_DTYPES or None in value.shape:
            raise InvalidArgument(f"{value}: expected a known dtype, and a shape with the number of rows")
        dtype = np.dtype("S1") if value.dtype == "string" else NUMPY_DTYPES[value.dtype]
        return np.broadcast_to(np.zeros((), dtype), [axis or 0 for axis in value.shape])
    if isinstance(value, Mapping):
        return {name: _declared(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)) and any(isinstance(item, TensorSpec) for item in value):
        return [_declared(item) for item in value]
    return value


def _read(reply: training_pb2.EstimateRunResponse) -> RunEstimate:
    measured = reply.HasField("seconds")
    return RunEstimate(
        model=reply.base.name,
        base_version=reply.base.version,
        problems=tuple(reply.problems),
        rows=reply.rows,
        steps_per_epoch=reply.steps_per_epoch,
        steps=reply.steps,
        validation_steps=reply.validation_steps,
        data_bytes=reply.data_bytes,
        trainable_parameters=reply.trainable_parameters if measured else None,
        non_trainable_parameters=reply.non_trainable_parameters if measured else None,
        memory_bytes=reply.memory_bytes if measured else None,
        disk_bytes=reply.disk_bytes if measured else None,
        seconds=_read_seconds(reply.seconds) if measured else None,
        wait_seconds=reply.wait_seconds if reply.HasField("wait_seconds") else None,
        ahead=reply.ahead,
        publication=_read_publication(reply.publication) if reply.HasField("publication") else None,
    )


def _read_seconds(seconds: training_pb2.EstimatedSeconds) -> EstimatedSeconds:
    return EstimatedSeconds(
        total=seconds.total,
        start=seconds.start,
        steps=seconds.steps,
        validation=seconds.validation,
        checkpoints=seconds.checkpoints,
        result=seconds.result,
        step=seconds.step,
    )


def _read_publication(publication: training_pb2.EstimatedPublication) -> EstimatedPublication:
    best = publication.choice == training_pb2.PUBLISH_CHOICE_BEST
    return EstimatedPublication(
        version=publication.version.version,
        label=publication.label,
        weights="best" if best else "last",
        if_improved=publication.if_improved,
        bytes=publication.bytes,
    )
