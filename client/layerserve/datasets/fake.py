"""Datasets of the fake server, in memory."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from layerserve.errors import DataLoss, DatasetNotFound, InvalidArgument, Unavailable
from layerserve.testing.fake_server import FakeServer
from layerserve.v1 import datasets_pb2 as pb
from layerserve.values.tensors import array_dtype, dtype_enum


class Fake:
    """The datasets of a fake server. It describes .npz files only."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        #: Bytes of datasets and of unfinished uploads, by their SHA-256 in hexadecimal.
        self.bytes: dict[str, bytes] = {}
        #: Number of bytes after which the next uploads are cut, one number for each.
        self.cuts: list[int] = []
        self._datasets: dict[str, pb.Dataset] = {}

    def UploadDataset(
        self, requests: Iterator[pb.UploadDatasetRequest], context: Any
    ) -> Iterator[pb.UploadDatasetResponse]:
        declared = next(requests).declaration
        with self._server.answering("UploadDataset", declared, context):
            id = declared.sha256.hex()
            if id not in self._datasets:
                yield pb.UploadDatasetResponse(position=pb.DatasetPosition(received=len(self.bytes.get(id, b""))))
                self._receive(id, requests)
                self._datasets[id] = self._described(id, declared)
            yield pb.UploadDatasetResponse(dataset=self._datasets[id])

    def _receive(self, id: str, requests: Iterator[pb.UploadDatasetRequest]) -> None:
        cut = self.cuts.pop(0) if self.cuts else None
        held = self.bytes.get(id, b"")
        for request in requests:
            if request.chunk.offset > len(held):
                raise InvalidArgument(f"chunk: got one at byte {request.chunk.offset}, expected {len(held)}")
            held += request.chunk.data[len(held) - request.chunk.offset :]
            self.bytes[id] = held
            if cut is not None and len(held) >= cut:
                raise Unavailable("the connection was dropped")
        if hashlib.sha256(held).hexdigest() != id:
            raise DataLoss(f"the stream ended after {len(held)} bytes, or the file has another digest")

    def _described(self, id: str, declared: pb.DatasetDeclaration) -> pb.Dataset:
        arrays = []
        if declared.format == pb.DATASET_FORMAT_NPZ:
            with np.load(io.BytesIO(self.bytes[id]), allow_pickle=False) as archive:
                found = {name: archive[name] for name in archive.files}
            arrays = [
                pb.DatasetArray(
                    name=name,
                    dtype=dtype_enum("string" if one.dtype.kind in "SU" else array_dtype(one)),
                    shape=one.shape,
                )
                for name, one in found.items()
            ]
        rows = {array.shape[0] for array in arrays}
        return pb.Dataset(
            id=id,
            title=declared.title,
            format=declared.format,
            bytes=declared.bytes,
            rows=rows.pop() if len(rows) == 1 else 0,
            arrays=arrays,
            owner="anyone",
            shared=declared.shared,
        )

    def _dataset(self, id: str) -> pb.Dataset:
        found = [dataset for known, dataset in self._datasets.items() if known.startswith(id)]
        if len(found) != 1:
            raise DatasetNotFound(f"no dataset {id!r}")
        return found[0]

    def ListDatasets(self, request: pb.ListDatasetsRequest, context: Any) -> pb.ListDatasetsResponse:
        return pb.ListDatasetsResponse(datasets=reversed(self._datasets.values()))

    def GetDataset(self, request: pb.GetDatasetRequest, context: Any) -> pb.GetDatasetResponse:
        return pb.GetDatasetResponse(dataset=self._dataset(request.dataset_id))

    def DeleteDataset(self, request: pb.DeleteDatasetRequest, context: Any) -> pb.DeleteDatasetResponse:
        id = self._dataset(request.dataset_id).id
        del self._datasets[id], self.bytes[id]
        return pb.DeleteDatasetResponse()

    def MakeDataset(self, request: pb.MakeDatasetRequest, context: Any) -> pb.MakeDatasetResponse:
        """Replies with a dataset without arrays: the fake server samples no requests."""
        return pb.MakeDatasetResponse(
            dataset=pb.Dataset(id=hashlib.sha256(request.SerializeToString()).hexdigest(), title=request.title)
        )
