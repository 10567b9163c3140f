"""Flows that upload datasets and make them of sampled requests. An upload that is cut goes on where it was."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from functools import partial as bind
from typing import Any, Literal

from layerserve.calls.flow import Flow, Pause, call, open_stream, receive, work
from layerserve.calls.methods import MAKE_DATASET, UPLOAD_DATASET
from layerserve.datasets.content import Content, Measured, measured
from layerserve.datasets.info import DatasetInfo, read_dataset
from layerserve.errors import (
    Aborted,
    Cancelled,
    InvalidArgument,
    LayerserveError,
    Overloaded,
    QuotaExceeded,
    Unavailable,
)
from layerserve.training.feed import RECONNECT_DELAYS
from layerserve.v1 import datasets_pb2 as pb
from layerserve.v1.tensor_pb2 import ModelSpec
from layerserve.values.casting import as_array, default_cast
from layerserve.values.tensors import encode

#: Pauses before the attempts to go on while no bytes come, in seconds. After the last one the error is raised.
PAUSES = RECONNECT_DELAYS
#: Called with "reading", "sending" or "checking", and the number of bytes done and in total (0 while it is unknown).
DatasetProgress = Callable[[Literal["reading", "sending", "checking"], int, int], object]
#: Corrected answers by request id: an array for the only output, or a dict by output name.
Corrections = Mapping[str, Any]


def upload(
    content: Content,
    title: str,
    keep_seconds: float | None,
    shared: bool,
    progress: DatasetProgress | None,
) -> Flow[DatasetInfo]:
    """Flow that uploads a dataset. The pauses before attempts to go on begin anew whenever some bytes have come."""
    show: DatasetProgress = progress or (lambda phase, done, total: None)
    held = yield from work(bind(_measured, content, show))
    declaration = pb.DatasetDeclaration(
        format=content.format,
        bytes=held.size,
        sha256=held.sha256,
        title=title,
        keep_seconds=_seconds(keep_seconds),
        shared=shared,
    )
    reached, tries = -1, 0
    while True:
        sender = DatasetUpload(declaration, held, show)
        failure: LayerserveError = Unavailable("the server closed the stream before the dataset was complete")
        try:
            stream = yield from open_stream(UPLOAD_DATASET, sender)
            while (reply := (yield from receive(stream))) is not None:
                if reply.WhichOneof("event") == "dataset":
                    return read_dataset(reply.dataset)
                if reply.position.received > reached:
                    reached, tries = reply.position.received, 0
                sender.accept(reply.position.received)
        except (Unavailable, Cancelled, Aborted) as error:  # a cut connection, a server that stops, a stalled stream
            failure = error
        except Overloaded as error:
            if isinstance(error, QuotaExceeded) or error.retry_after is None or sender.error is not None:
                raise (sender.error or error) from None
            failure = error
        except LayerserveError as error:
            raise (sender.error or error) from None
        finally:
            sender.abandon()
        if sender.error is not None or tries >= len(PAUSES):
            raise (sender.error or failure) from None
        seconds = PAUSES[tries]
        if isinstance(failure, Overloaded):
            seconds = max(seconds, failure.retry_after or 0.0)
        yield Pause(seconds)
        tries += 1


class DatasetUpload(Iterable[pb.UploadDatasetRequest], AsyncIterable[pb.UploadDatasetRequest]):
    """The requests of an UploadDataset call, made while they are sent. Can be iterated once.

    The content is sent after the server has named its position (see `training_data.Upload`). `error` is an error while
    reading; the stream then ends early, and what the server has is kept.
    """

    def __init__(self, declaration: pb.DatasetDeclaration, held: Measured, progress: DatasetProgress) -> None:
        self.error: LayerserveError | None = None
        self._declaration = declaration
        self._held = held
        self._progress = progress
        self._decided = threading.Event()
        self._offset: int | None = None

    def accept(self, offset: int) -> None:
        """Starts sending the content from an offset on."""
        self._offset = offset
        self._decided.set()

    def abandon(self) -> None:
        """Ends the requests, and releases the waiting sender."""
        self._offset = None
        self._decided.set()

    def __iter__(self) -> Iterator[pb.UploadDatasetRequest]:
        yield pb.UploadDatasetRequest(declaration=self._declaration)
        self._decided.wait()
        yield from self._chunks()

    async def __aiter__(self) -> AsyncIterator[pb.UploadDatasetRequest]:
        yield pb.UploadDatasetRequest(declaration=self._declaration)
        await asyncio.to_thread(self._decided.wait)
        chunks = self._chunks()
        while (message := await asyncio.to_thread(next, chunks, None)) is not None:
            yield message

    def _chunks(self) -> Iterator[pb.UploadDatasetRequest]:
        offset = self._offset
        if offset is None:
            return
        try:
            pieces = self._held.content.pieces(offset) if offset < self._held.size else iter(())
            for piece in pieces:
                if self._offset is None:
                    return
                yield pb.UploadDatasetRequest(chunk=pb.DatasetChunk(offset=offset, data=piece))
                offset += len(piece)
                self._progress("sending", offset, self._held.size)
            self._progress("checking", offset, self._held.size)
        except LayerserveError as error:
            self.error = error
        except Exception as error:  # slicing, and `progress`, may raise any error
            self.error = InvalidArgument(f"dataset: {type(error).__name__}: {error}")


def _measured(content: Content, progress: DatasetProgress) -> Measured:
    held = measured(content, lambda done: progress("reading", done, 0))
    if not held.size:
        raise InvalidArgument("dataset: got an empty file, expected data")
    return held


def _seconds(keep_seconds: float | None) -> float:
    if keep_seconds is None:
        return 0.0
    if isinstance(keep_seconds, bool) or not isinstance(keep_seconds, (int, float)) or not keep_seconds > 0:
        raise InvalidArgument(f"keep_seconds: got {keep_seconds!r}, expected seconds, more than 0")
    return float(keep_seconds)


def make(
    model: ModelSpec,
    corrections: Corrections,
    uncorrected: bool,
    title: str,
    keep_seconds: float | None,
    shared: bool,
) -> Flow[DatasetInfo]:
    """Flow that makes a dataset of sampled requests."""
    request = pb.MakeDatasetRequest(
        model=model,
        corrections=[_correction(id, targets) for id, targets in corrections.items()],
        uncorrected=uncorrected,
        title=title,
        keep_seconds=_seconds(keep_seconds),
        shared=shared,
    )
    reply = yield from call(MAKE_DATASET, request)
    return read_dataset(reply.dataset)


def _correction(id: str, targets: Any) -> pb.Correction:
    if not isinstance(id, str) or not id:
        raise InvalidArgument(f"corrections: got {id!r}, expected the id of a request")
    named = targets if isinstance(targets, Mapping) else {"": targets}
    what = f"request {id!r}"
    tensors = [encode(default_cast(as_array(value, what), what), name) for name, value in named.items()]
    return pb.Correction(request_id=id, targets=tensors)
