"""The message for a version of a model, shared by the services."""

from __future__ import annotations

from pathlib import Path

from layerserve.v1 import models_pb2

from layerserve_server.errors import safe_text
from layerserve_server.repository.entry import Description
from layerserve_server.repository.version_states import State
from layerserve_server.services.messages import tensor_specs, timestamp

STATES: dict[State, models_pb2.VersionState.ValueType] = {
    State.LOADING: models_pb2.VERSION_STATE_LOADING,
    State.READY: models_pb2.VERSION_STATE_READY,
    State.FAILED: models_pb2.VERSION_STATE_FAILED,
    State.UNLOADING: models_pb2.VERSION_STATE_UNLOADING,
    State.AVAILABLE: models_pb2.VERSION_STATE_AVAILABLE,
    State.UNLOADED: models_pb2.VERSION_STATE_UNLOADED,
}


def model_version(one: Description) -> models_pb2.ModelVersion:
    """Returns the message for a version."""
    return models_pb2.ModelVersion(
        name=one.name,
        version=one.version,
        state=STATES[one.state],
        reason=one.reason,
        labels=one.labels,
        inputs=tensor_specs(one.inputs),
        outputs=tensor_specs(one.outputs),
        file=safe_text(Path(one.path).name),
        file_size_bytes=one.file_bytes,
        keras_version=one.keras_version,
        parameter_count=one.parameter_count,
        ready_time=timestamp(one.ready_time) if one.ready_time is not None else None,
        training_run=one.training_run,
        compiled=one.compiled,
        served_by_default=one.default,
        choosing_engine=one.choosing_engine,
        pinned=one.pinned,
        memory_bytes=one.memory_bytes,
        independent_rows=one.independent_rows,
        digest=one.digest,
        last_used=timestamp(one.used_time) if one.used_time is not None else None,
        canary_share=one.canary_share,
        engines=[
            models_pb2.EngineChoice(
                rows=choice.rows,
                engine=choice.engine,
                milliseconds=choice.milliseconds,
                difference=choice.difference,
            )
            for choice in one.engines
        ],
    )
