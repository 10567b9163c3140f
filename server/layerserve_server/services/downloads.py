"""A file as a stream of messages: what it is first, its sha256 last."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable

from layerserve.v1 import models_pb2
from layerserve.v1 import training_pb2 as pb

from layerserve_server.transport.call import Stream


async def downloaded(
    stream: Stream,
    head: models_pb2.DownloadModelResponse | pb.DownloadRunFileResponse,
    read: Callable[[], bytes],
) -> AsyncGenerator[bytes, None]:
    """The messages of a download. `head` says what the file is, `read` gives its next piece, empty at the end."""
    digest = hashlib.sha256()
    while piece := await stream.blocking(read):
        digest.update(piece)
        # A message of its own for each piece: who takes nothing has one copy of it kept here, not four.
        message = _with(head, data=piece)
        head, piece = type(head)(), b""
        yield message
    yield _with(head, sha256=digest.hexdigest())


def _with(head: models_pb2.DownloadModelResponse | pb.DownloadRunFileResponse, **fields: bytes | str) -> bytes:
    """A message with what `head` has, and more, encoded."""
    message = type(head)(**fields)  # type: ignore[arg-type]
    message.MergeFrom(head)  # type: ignore[arg-type]
    encoded: bytes = message.SerializeToString()
    return encoded
