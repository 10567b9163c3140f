"""Handlers of layerserve.v1.DatasetService: datasets that callers upload."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncGenerator
from functools import partial

from layerserve.v1 import datasets_pb2 as pb

from layerserve_server.access.caller import Caller
from layerserve_server.access.ownership import deletes_dataset, sees_dataset
from layerserve_server.datasets.dataset import Dataset, Declaration
from layerserve_server.datasets.partial_upload import Part
from layerserve_server.datasets.store import DatasetStore, UsedBy
from layerserve_server.errors import (
    ForbiddenError,
    InvalidRequestError,
    NotTrainableError,
)
from layerserve_server.services.dataset_messages import (
    FORMATS,
    check_may_have_datasets,
    dataset_message,
    declared_by,
    most_bytes,
)
from layerserve_server.services.messages import parse, parsed
from layerserve_server.services.upload_slots import UploadSlots
from layerserve_server.transport.call import Call, Routes, Stream

SERVICE = "/layerserve.v1.DatasetService/"

#: Maximum number of concurrent uploads.
MAX_UPLOADS = 32
#: Maximum size of a dataset, in bytes.
MAX_BYTES = 1 << 50


class DatasetService:
    """Handlers of the dataset service."""

    def __init__(
        self,
        store: DatasetStore,
        used_by: UsedBy,
        *,
        training: bool,
    ) -> None:
        """Without `training` the server takes no datasets."""
        self._store = store
        self._used_by = used_by
        self._training = training
        self._uploads = UploadSlots(MAX_UPLOADS, "datasets are being uploaded")

    def routes(self) -> Routes:
        """Returns the handlers."""
        return Routes(
            unary={
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
        declared, caller, store = _declaration(message.declaration), stream.caller, self._store
        check_may_have_datasets(caller, training=self._training)
        with self._uploads.occupy(stream):
            opened = await stream.blocking(
                lambda: store.open(declared, caller.owner, most_bytes(caller), lambda: not stream.listens())
            )
            if isinstance(opened, Dataset):
                yield self._uploaded(opened, caller)
                return
            try:
                position = pb.DatasetPosition(received=opened.size)
                yield pb.UploadDatasetResponse(position=position).SerializeToString()
                await self._receive(stream, opened)
                dataset = await stream.blocking(lambda: store.finish(opened))
            finally:
                await stream.blocking(lambda: store.close(opened))
        yield self._uploaded(dataset, caller)

    def list_datasets(self, call: Call) -> None:
        """Handles ListDatasets."""
        parse(pb.ListDatasetsRequest, call.request)
        found = self._store.datasets(partial(sees_dataset, call.caller))
        messages = [dataset_message(self._store, dataset, call.caller) for dataset in found]
        call.answer(pb.ListDatasetsResponse(datasets=messages).SerializeToString())

    def get_dataset(self, call: Call) -> None:
        """Handles GetDataset. Raises as `DatasetStore.get` does."""
        request = parse(pb.GetDatasetRequest, call.request)
        dataset = self._store.get(request.dataset_id, partial(sees_dataset, call.caller))
        message = dataset_message(self._store, dataset, call.caller, samples=True)
        call.answer(pb.GetDatasetResponse(dataset=message).SerializeToString())

    def delete_dataset(self, call: Call) -> None:
        """Handles DeleteDataset. Raises as `DatasetStore.get` and `DatasetStore.delete` do, and ForbiddenError."""
        request = parse(pb.DeleteDatasetRequest, call.request)
        caller = call.caller
        dataset = self._store.get(request.dataset_id, partial(sees_dataset, caller))
        if not deletes_dataset(caller, dataset):
            raise ForbiddenError(f"dataset '{dataset.id}': it belongs to another caller")
        owner = caller.owner if caller.owns(*dataset.owner_names) else None
        self._store.delete(dataset, owner, self._used_by)
        call.answer(pb.DeleteDatasetResponse().SerializeToString())

    async def _receive(self, stream: Stream, part: Part) -> None:
        async for data in stream.requests():
            message = await parsed(stream, pb.UploadDatasetRequest, data)
            if message.WhichOneof("part") != "chunk":
                raise InvalidRequestError("every message after the first must be a chunk")
            await stream.blocking(partial(self._store.receive, part, message.chunk.offset, message.chunk.data))

    def _uploaded(self, dataset: Dataset, caller: Caller) -> bytes:
        message = dataset_message(self._store, dataset, caller, samples=True)
        encoded: bytes = pb.UploadDatasetResponse(dataset=message).SerializeToString()
        return encoded


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
    return declared_by(format, message.bytes, message.sha256.hex(), message)
