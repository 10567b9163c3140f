"""Checkpoints that training runs keep: their description, and the flows to use them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from layerserve.calls.flow import Flow, call
from layerserve.calls.methods import rpc
from layerserve.errors import InvalidArgument, NotFound
from layerserve.models.download import fetch, model_path
from layerserve.models.formats import model_format
from layerserve.models.info import model_spec
from layerserve.models.signatures import Signature, Signatures, fetch_signature
from layerserve.prediction.prediction import output_names
from layerserve.training.events import Logs, read_logs
from layerserve.v1 import checkpoints_pb2 as pb
from layerserve.v1.training_pb2 import GetRunRequest, GetRunResponse
from layerserve.values.inputs import encode_inputs
from layerserve.values.replies import read, read_time
from layerserve.values.tables import Table, Tabular, count_text, logs_text, moment_text
from layerserve.values.tensors import Array, decode

_COLUMNS = ("Checkpoint", "#Epoch", "#Step", "Logs", "#Bytes", "Written", "#Published")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that a run keeps.

    `id` is "e3" after epoch 3, "e3s40" after step 40 of it. `step` is the number of steps of `epoch` (from 1) that are
    done, 0 after its end. `best` is whether it is the best in the run's `monitor`, `published` the version as which it
    was published, or None.
    """

    run_id: str
    id: str
    epoch: int
    step: int
    logs: Logs
    bytes: int
    time: datetime
    best: bool
    published: int | None

    @property
    def name(self) -> str:
        """Its name for `from_checkpoint`: "RUN/CHECKPOINT"."""
        return f"{self.run_id}/{self.id}"


class CheckpointList(tuple[Checkpoint, ...], Tabular):
    """A tuple of checkpoints, shown as a table in notebooks."""

    __slots__ = ()

    def table(self, title: str = "") -> Table:
        """Returns a table with a row per checkpoint. The title is their number by default."""
        return Table(title or count_text(len(self), "checkpoint"), _COLUMNS, [_row(one) for one in self])


def _row(one: Checkpoint) -> tuple[str, ...]:
    return (
        f"{one.id} (best)" if one.best else one.id,
        str(one.epoch),
        str(one.step) if one.step else "",
        logs_text(one.logs),
        str(one.bytes),
        moment_text(one.time),
        "" if one.published is None else str(one.published),
    )


def _read(run_id: str, message: pb.Checkpoint) -> Checkpoint:
    return read(
        Checkpoint,
        message,
        run_id=run_id,
        logs=read_logs(message.logs),
        time=read_time(message.time),
        published=message.published.version if message.HasField("published") else None,
    )


def split_name(name: str) -> tuple[str, str]:
    """Returns the ids of run and checkpoint in "RUN/CHECKPOINT". Raises InvalidArgument."""
    run, _, checkpoint = name.partition("/")
    if not run or not checkpoint or "/" in checkpoint:
        raise InvalidArgument(f"checkpoint: got {name!r}, expected RUN/CHECKPOINT, RUN/best or RUN/last")
    return run, checkpoint


def list_checkpoints(run_id: str) -> Flow[CheckpointList]:
    """Flow that lists a run's checkpoints."""
    reply = yield from call(pb.ListCheckpointsRequest(run_id=run_id), pb.ListCheckpointsResponse)
    return CheckpointList(_read(run_id, message) for message in reply.checkpoints)


def download(name: str, path: str | os.PathLike[str], state: bool, format: str | None) -> Flow[Path]:
    """Flow that downloads a checkpoint to a file, or to a directory under a name of its own. Returns its path."""
    run_id, checkpoint_id = split_name(name)
    content = pb.CHECKPOINT_CONTENT_STATE if state else pb.CHECKPOINT_CONTENT_MODEL
    request = pb.DownloadCheckpointRequest(
        run_id=run_id, checkpoint_id=checkpoint_id, content=content, format=model_format(format)
    )
    where = os.fspath(path)
    return (
        yield from fetch(
            rpc(pb.DownloadCheckpointRequest, pb.DownloadCheckpointResponse),
            request,
            f"checkpoint {name!r}",
            lambda reply: _destination(where, run_id, reply),
        )
    )


def _destination(path: str, run_id: str, reply: pb.DownloadCheckpointResponse) -> Path:
    return model_path(path, re.sub(r"[^\w-]", "_", f"{run_id}-{reply.checkpoint.id}"), reply.file)


def publish(name: str, label: str | None, format: str | None) -> Flow[int]:
    """Flow that publishes a checkpoint. Returns the version."""
    run_id, checkpoint_id = split_name(name)
    request = pb.PublishCheckpointRequest(
        run_id=run_id, checkpoint_id=checkpoint_id, label=label or "", format=model_format(format)
    )
    reply = yield from call(request, pb.PublishCheckpointResponse)
    return reply.published.version


def predict(
    signatures: Signatures, name: str, inputs: Any, outputs: str | Sequence[str] | None
) -> Flow[dict[str, Array]]:
    """Flow that computes outputs of a checkpoint's model, by name."""
    run_id, checkpoint_id = split_name(name)
    names = output_names(outputs)
    signature = yield from _signature(signatures, run_id)
    request = pb.PredictCheckpointRequest(
        run_id=run_id, checkpoint_id=checkpoint_id, inputs=encode_inputs(inputs, signature.inputs), outputs=names
    )
    reply = yield from call(request, pb.PredictCheckpointResponse)
    return {tensor.name: decode(tensor, copy=True) for tensor in reply.outputs}


def _signature(signatures: Signatures, run_id: str) -> Flow[Signature]:
    """Flow of the signature of a run's model: of the version that it started from, or if that is gone of the newest."""
    base = (yield from call(GetRunRequest(run_id=run_id), GetRunResponse)).run.base
    try:
        return (yield from fetch_signature(signatures, model_spec(base.name, base.version, None)))
    except NotFound:
        return (yield from fetch_signature(signatures, model_spec(base.name, None, None)))


def delete(name: str) -> Flow[None]:
    """Flow that removes a checkpoint."""
    run_id, checkpoint_id = split_name(name)
    yield from call(pb.DeleteCheckpointRequest(run_id=run_id, checkpoint_id=checkpoint_id), pb.DeleteCheckpointResponse)
