"""Information about served models: versions, inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from layerserve.calls.flow import Flow, call
from layerserve.calls.routing import model_metadata
from layerserve.errors import InvalidArgument
from layerserve.v1 import models_pb2, tensor_pb2
from layerserve.v1.models_pb2 import GetModelRequest, GetModelResponse
from layerserve.values.replies import read
from layerserve.values.tables import Table, Tabular, count_text, percent_text, shape_text
from layerserve.values.tensor_spec import TensorSpec, read_tensor_spec

#: State of a version. "unloading" finishes its open requests; "available" is loaded on the first request; "unloaded"
#: isn't served.
VersionState = Literal["loading", "ready", "failed", "unloading", "available", "unloaded", "unknown"]

_COLUMNS = ("Model", "#Version", "State", "Labels", "Inputs", "Outputs", "#Parameters", "Memory", "Engine")


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine chosen for batches of about `rows` rows, and the time of each timed engine for them, in milliseconds.

    `difference` is the maximum difference from the golden file's outputs, for an engine of lower precision.
    """

    rows: int
    engine: str
    milliseconds: Mapping[str, float]
    difference: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelInfo(Tabular):
    """A version of a model.

    `inputs` and `outputs` are empty until the version is loaded for the first time. `reason` is why it failed or isn't
    served, or why its file or settings on disk aren't those in use. `pinned` is whether a call made it the default.
    `compiled` is whether its file has an optimizer and a loss, `served_by_default` whether it serves requests that name
    no version, `engines` the engines that compute it, by row count (empty for eager torch), and `choosing_engine`
    whether engines are still being timed. `memory_bytes` is the memory that it takes, in bytes (0 unless it is
    loaded), and `last_used` when a request last used it. `canary_share` is the share of callers, from 0 to 1, that get
    it as the canary; 0 for other versions. `independent_rows` is whether each row of the outputs depends on its row of
    the inputs only; False until the version is loaded for the first time. `digest` is the SHA-256 digest of its file,
    in hexadecimal, or of the digests of its files; empty until then.
    """

    name: str
    version: int
    state: VersionState
    reason: str
    labels: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    file: str
    file_bytes: int
    keras_version: str
    parameter_count: int
    ready_time: datetime | None
    training_run: str
    compiled: bool
    served_by_default: bool
    engines: tuple[EngineChoice, ...] = ()
    choosing_engine: bool = False
    pinned: bool = False
    memory_bytes: int = 0
    last_used: datetime | None = None
    canary_share: float = 0.0
    independent_rows: bool = False
    digest: str = ""

    def table(self) -> Table:
        """Returns the version as a table of one row."""
        return Models((self,)).table()


class Models(tuple[ModelInfo, ...], Tabular):
    """A tuple of versions of models, shown as a table in notebooks."""

    __slots__ = ()

    def table(self, title: str = "") -> Table:
        """Returns a table with a row per version. The title is their number by default."""
        return Table(title or count_text(len(self), "version"), _COLUMNS, [_row(info) for info in self])


def _row(info: ModelInfo) -> tuple[str, ...]:
    state = f"{info.state}: {info.reason}" if info.reason else info.state
    return (
        info.name,
        f"{info.version}{' *' * info.served_by_default}{' pinned' * info.pinned}{_canary_text(info)}",
        state,
        ", ".join(info.labels),
        _specs_text(info.inputs),
        _specs_text(info.outputs),
        f"{info.parameter_count:,}" if info.inputs else "",
        _memory_text(info),
        "still being chosen" if info.choosing_engine else _engines_text(info.engines),
    )


def _canary_text(info: ModelInfo) -> str:
    return f" canary {percent_text(info.canary_share)}" if info.canary_share else ""


def _engines_text(engines: tuple[EngineChoice, ...]) -> str:
    """Returns the engine's name, or a line per row count if they differ."""
    names = {choice.engine for choice in engines}
    if len(names) < 2:
        differences = [f" (differs by {choice.difference:.2g})" for choice in engines if choice.difference]
        return "".join([*names, *differences])
    return "\n".join(f"{choice.engine} ({choice.rows} row{'s' * (choice.rows != 1)})" for choice in engines)


def _memory_text(info: ModelInfo) -> str:
    """Returns the memory that a version takes, and when it was last used, on a line each."""
    memory = f"{info.memory_bytes / 2**20:,.1f} MiB" if info.memory_bytes else ""
    used = f"used {info.last_used:%Y-%m-%d %H:%M:%S} UTC" if info.last_used is not None else ""
    return "\n".join(filter(None, (memory, used)))


def _specs_text(specs: tuple[TensorSpec, ...]) -> str:
    return "\n".join(
        f"{spec.name} {shape_text(spec.shape)} {spec.dtype}{' or ' if spec.encoding else ''}{spec.encoding}"
        for spec in specs
    )


def model_spec(name: str, version: int | None = None, label: str | None = None) -> tensor_pb2.ModelSpec:
    """Makes the message that refers to a model.

    Raises InvalidArgument for an empty name, a version that isn't an integer, a label that isn't text, or both of them.
    """
    if not isinstance(name, str) or not name:
        raise InvalidArgument(f"model: got {name!r}, expected the name of a model")
    if version is not None and label is not None:
        raise InvalidArgument(f"model {name!r}: got version {version} and label {label!r}, expected one of the two")
    spec = tensor_pb2.ModelSpec(name=name)
    try:
        if version is not None:
            spec.version = version
    except (TypeError, ValueError):
        raise InvalidArgument(
            f"model {name!r}: got version {version!r}, expected an integer; a label is given as label=..."
        ) from None
    try:
        if label is not None:
            spec.label = label
    except (TypeError, ValueError):
        raise InvalidArgument(f"model {name!r}: got label {label!r}, expected text") from None
    return spec


def read_model_info(message: models_pb2.ModelVersion) -> ModelInfo:
    return read(
        ModelInfo,
        message,
        inputs=tuple(map(read_tensor_spec, message.inputs)),
        outputs=tuple(map(read_tensor_spec, message.outputs)),
        file_bytes=message.file_size_bytes,
        engines=tuple(read(EngineChoice, one) for one in message.engines),
    )


def get_model(spec: tensor_pb2.ModelSpec) -> Flow[ModelInfo]:
    """Flow of a version of a model."""
    reply = yield from call(GetModelRequest(model=spec), GetModelResponse, model_metadata(spec.name))
    return read_model_info(reply.version)
