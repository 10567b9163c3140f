"""Handlers of layerserve.v1.DatasetService: datasets that callers upload, or that are made of sampled requests."""

from __future__ import annotations

import base64
import importlib.util
import math
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from layerserve.v1 import datasets_pb2 as pb
from layerserve.v1 import tensor_pb2
from layerserve.values import tensors

from layerserve_server.access.caller import Caller
from layerserve_server.datasets.dataset import ArrayInfo, Dataset, Declaration, read_samples
from layerserve_server.datasets.part import Part
from layerserve_server.datasets.store import DatasetStore, UsedBy
from layerserve_server.errors import (
    BusyError,
    ForbiddenError,
    InvalidRequestError,
    InvalidTensorError,
    MissingInputError,
    NotTrainableError,
    safe_text,
)
from layerserve_server.inference.admission import names
from layerserve_server.inference.runner import Array, TensorSpec
from layerserve_server.repository.repository import Repository
from layerserve_server.services.dataset_arrays import seen_by
from layerserve_server.services.messages import choice, decode, lease, parse, parsed, timestamp
from layerserve_server.training import sampled_requests
from layerserve_server.training.dry_run import DryRun
from layerserve_server.training.sampled_requests import Correction
from layerserve_server.training.upload_slots import UploadSlots
from layerserve_server.transport.call import Call, Routes, Stream

SERVICE = "/layerserve.v1.DatasetService/"

#: Maximum number of concurrent uploads.
MAX_UPLOADS = 32
#: Maximum length of a title, in characters, and maximum size of a dataset, in bytes.
MAX_TITLE = 200
MAX_BYTES = 1 << 50
#: Maximum number of corrections in a call, and maximum length of the id of a request, in characters.
MAX_CORRECTIONS = 100_000
#: Number of elements (see `message_size`) of a correction with two targets.
CORRECTION_ELEMENTS = 24
MAX_ID = 1000
#: Time after which a refused caller may try again, in seconds.
RETRY_SECONDS = 5.0

FORMATS: Mapping[int, str] = {
    pb.DATASET_FORMAT_NPZ: "npz",
    pb.DATASET_FORMAT_PARQUET: "parquet",
    pb.DATASET_FORMAT_CSV: "csv",
    pb.DATASET_FORMAT_TSV: "tsv",
}


class DatasetService:
    """Handlers of the dataset service."""

    def __init__(
        self,
        store: DatasetStore,
        used_by: UsedBy,
        repository: Repository,
        reader: DryRun,
        samples: Path,
        *,
        training: bool,
    ) -> None:
        """`samples` is the folder of sampled requests; without `training` the server takes no datasets."""
        self._store = store
        self._used_by = used_by
        self._repository = repository
        self._reader = reader
        self._samples = samples
        self._training = training
        self._uploads = UploadSlots(MAX_UPLOADS, "datasets are being uploaded")
        self._making = threading.Lock()

    def routes(self) -> Routes:
        """Returns the handlers."""
        return Routes(
            unary={
                SERVICE + "MakeDataset": self.make_dataset,
                SERVICE + "ListDatasets": self.list_datasets,
                SERVICE + "GetDataset": self.get_dataset,
                SERVICE + "DeleteDataset": self.delete_dataset,
            },
            lists={SERVICE + "ListDatasets"},
            both_streams={SERVICE + "UploadDataset": self.upload_dataset},
        )

    async def upload_dataset(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Handles UploadDataset: receives what is missing of a dataset, publishes it, and yields it.

        Raises as `DatasetStore.open`, `Part.add` and `DatasetStore.finish` do, and BusyError.
        """
        message = await parsed(stream, pb.UploadDatasetRequest, await stream.first())
        if message.WhichOneof("part") != "declaration":
            raise InvalidRequestError("the first message of the stream must be the declaration")
        self._check_training()
        declared, caller, store = _declaration(message.declaration), stream.caller, self._store
        with self._uploads.occupy(stream.peer):
            opened = await stream.blocking(
                lambda: store.open(declared, caller.owner, _most_bytes(caller), lambda: not stream.listens())
            )
            if isinstance(opened, Dataset):
                yield self._uploaded(opened, caller)
                return
            try:
                position = pb.DatasetPosition(received=opened.size)
                yield pb.UploadDatasetResponse(position=position).SerializeToString()
                await _receive(stream, opened)
                dataset = await stream.blocking(lambda: store.finish(opened))
            finally:
                await stream.blocking(lambda: store.close(opened))
        yield self._uploaded(dataset, caller)

    def make_dataset(self, call: Call) -> None:
        """Handles MakeDataset. Raises as `messages.lease`, `DatasetStore.make` and `DryRun.make_dataset` do."""
        request = parse(pb.MakeDatasetRequest, call.request, MAX_CORRECTIONS * CORRECTION_ELEMENTS)
        name, version, label = choice(request.model)
        with lease(self._repository, call.caller, "train", request.model) as leased:
            inputs, outputs = leased.model.input_specs, leased.model.output_specs
            number = leased.version
        call.set_metric_labels(name, number)
        self._check_training()
        corrections = _corrections(request, outputs)
        declared = _declared("npz", 0, "", request)
        # Not those of a model that was deleted: its callers weren't those of the model that has its name now.
        deleted = self._repository.catalogue.control(name).deleted
        kept = (folder for folder in (self._samples / name).glob("*") if folder.name.isdigit())
        folders = sorted(folder for folder in kept if int(folder.name) > deleted)
        if version is not None or label is not None:
            folders = [folder for folder in folders if int(folder.name) == number]

        def write(path: Path, most: int) -> tuple[int, str]:
            sampled_requests.write_corrections(path.parent, corrections)
            arguments = {
                "file": str(path),
                "folders": list(map(str, folders)),
                "inputs": [spec.name for spec in inputs],
                "outputs": [spec.name for spec in outputs],
                "uncorrected": request.uncorrected,
                "most": most,
            }
            return self._reader.make_dataset(arguments, lambda: call.answered)

        if not self._making.acquire(blocking=False):
            raise BusyError("another dataset is being made; try again in a moment", retry_after=RETRY_SECONDS)
        try:
            dataset = self._store.make(declared, call.caller.owner, _most_bytes(call.caller), write)
        finally:
            self._making.release()
        message = self._message(dataset, call.caller, samples=True)
        call.reply(pb.MakeDatasetResponse(dataset=message).SerializeToString)

    def list_datasets(self, call: Call) -> None:
        """Handles ListDatasets."""
        parse(pb.ListDatasetsRequest, call.request)
        found = self._store.datasets(seen_by(call.caller))
        messages = [self._message(dataset, call.caller) for dataset in found]
        call.reply(pb.ListDatasetsResponse(datasets=messages).SerializeToString)

    def get_dataset(self, call: Call) -> None:
        """Handles GetDataset. Raises as `DatasetStore.get` does."""
        request = parse(pb.GetDatasetRequest, call.request)
        dataset = self._store.get(request.dataset_id, seen_by(call.caller))
        message = self._message(dataset, call.caller, samples=True)
        call.reply(pb.GetDatasetResponse(dataset=message).SerializeToString)

    def delete_dataset(self, call: Call) -> None:
        """Handles DeleteDataset. Raises as `DatasetStore.get` and `DatasetStore.delete` do, and ForbiddenError."""
        request = parse(pb.DeleteDatasetRequest, call.request)
        caller = call.caller
        dataset = self._store.get(request.dataset_id, seen_by(caller))
        owner = caller.owner if caller.owner in dataset.owners else None
        if owner is None and not caller.manages_all:
            raise ForbiddenError(f"dataset '{dataset.id}': it belongs to another caller")
        self._store.delete(dataset, owner, self._used_by)
        call.reply(pb.DeleteDatasetResponse().SerializeToString)

    def _check_training(self) -> None:
        if not self._training:
            raise NotTrainableError("training is off on this server: it has no training slots")

    def _uploaded(self, dataset: Dataset, caller: Caller) -> bytes:
        message = self._message(dataset, caller, samples=True)
        encoded: bytes = pb.UploadDatasetResponse(dataset=message).SerializeToString()
        return encoded

    def _message(self, dataset: Dataset, caller: Caller, *, samples: bool = False) -> pb.Dataset:
        held = read_samples(self._store.folder / dataset.id) if samples else {}
        name = caller.owner
        message = pb.Dataset(
            id=dataset.id,
            title=dataset.title,
            format=next(number for number, name in FORMATS.items() if name == dataset.format),  # type: ignore[arg-type]
            bytes=dataset.bytes,
            rows=dataset.rows,
            arrays=[_array(array, held.get(array.name)) for array in dataset.arrays],
            owner=name if name in dataset.owners else next(iter(dataset.owners), ""),
            shared=dataset.shared,
            created_time=timestamp(dataset.created),
            used_time=timestamp(dataset.used),
        )
        if (expires := self._store.expires(dataset)) is not None:
            message.expires_time.CopyFrom(timestamp(expires))
        return message


async def _receive(stream: Stream, part: Part) -> None:
    async for data in stream.requests():
        message = await parsed(stream, pb.UploadDatasetRequest, data)
        if message.WhichOneof("part") != "chunk":
            raise InvalidRequestError("every message after the first must be a chunk")
        await stream.blocking(partial(part.add, message.chunk.offset, message.chunk.data))


def _most_bytes(caller: Caller) -> int | None:
    return None if caller.quota is None else caller.quota.max_dataset_bytes


def _declaration(message: pb.DatasetDeclaration) -> Declaration:
    """Returns what a caller declares. Raises InvalidRequestError, and NotTrainableError without pyarrow."""
    format = FORMATS.get(message.format)
    if format is None:
        known = ", ".join(f"{number} ({name})" for number, name in FORMATS.items())
        raise InvalidRequestError(f"format: got {message.format}, expected one of {known}")
    if format != "npz" and importlib.util.find_spec("pyarrow") is None:
        raise NotTrainableError(f"format {format}: requires pyarrow on the server: pip install pyarrow")
    if not 0 < message.bytes <= MAX_BYTES:
        raise InvalidRequestError(f"bytes: got {message.bytes}, expected 1 to {MAX_BYTES}")
    if len(message.sha256) != 32:
        raise InvalidRequestError(f"sha256: got {len(message.sha256)} bytes, expected 32")
    return _declared(format, message.bytes, message.sha256.hex(), message)


def _declared(
    format: str, size: int, digest: str, message: pb.DatasetDeclaration | pb.MakeDatasetRequest
) -> Declaration:
    if len(message.title) > MAX_TITLE:
        raise InvalidRequestError(f"title: got {len(message.title)} characters, expected at most {MAX_TITLE}")
    if not 0 <= message.keep_seconds < math.inf:
        raise InvalidRequestError(f"keep_seconds: got {message.keep_seconds:g}, expected seconds from 0")
    return Declaration(format, size, digest, safe_text(message.title), message.keep_seconds, message.shared)


def _corrections(request: pb.MakeDatasetRequest, outputs: Sequence[TensorSpec]) -> list[Correction]:
    """Returns corrections with the names of outputs. Raises InvalidRequestError or a subclass."""
    if len(request.corrections) > MAX_CORRECTIONS:
        raise InvalidRequestError(
            f"corrections: got {len(request.corrections)}, expected at most {MAX_CORRECTIONS} in a call"
        )
    return [
        Correction(one.request_id, _targets(one.request_id, one.targets, outputs))
        for one in map(_named, request.corrections)
    ]


def _named(correction: pb.Correction) -> pb.Correction:
    if not 0 < len(correction.request_id) <= MAX_ID:
        raise InvalidRequestError(f"request_id: got {len(correction.request_id)} characters, expected 1 to {MAX_ID}")
    return correction


def _targets(id: str, targets: Sequence[tensor_pb2.Tensor], outputs: Sequence[TensorSpec]) -> dict[str, Array]:
    known = [spec.name for spec in outputs]
    found: dict[str, Array] = {}
    label = f"request '{safe_text(id, 80)}'"
    if not targets:
        raise MissingInputError(f"{label}: got no targets, expected some for {names(outputs)}")
    for tensor in targets:
        name = tensor.name or (known[0] if len(known) == 1 else "")
        if name not in known or name in found:
            problem = "two targets" if name in found else "a target"
            raise InvalidRequestError(
                f"{label}: got {problem} for '{safe_text(tensor.name, 80)}', expected {names(outputs)}"
            )
        found[name] = decode(tensor)
        if found[name].dtype.kind not in "biuf":
            raise InvalidTensorError(f"{label}, '{name}': got text, expected numbers, such as class indices")
    return found


def _array(array: ArrayInfo, sample: Mapping[str, Any] | None) -> pb.DatasetArray:
    message = pb.DatasetArray(name=array.name, shape=array.shape, problem=array.problem)
    if not array.problem:
        message.dtype = tensors.dtype_enum(array.dtype, array.name)
    if sample is not None:
        message.sample.name = array.name
        message.sample.dtype = message.dtype
        message.sample.shape.extend((sample["rows"], *array.shape[1:]))
        message.sample.data = base64.b64decode(sample["data"])
    return message
