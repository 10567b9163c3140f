"""Downloads of files as streams of messages: a description first, the data, and the SHA-256 digest last."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable
from typing import TypeAlias

from layerserve.v1.checkpoints_pb2 import DownloadCheckpointResponse
from layerserve.v1.models_pb2 import DownloadModelResponse
from layerserve.v1.training_pb2 import DownloadRunFileResponse

from layerserve_server.transport.call import Stream

Head: TypeAlias = DownloadModelResponse | DownloadRunFileResponse | DownloadCheckpointResponse


async def downloaded(
    stream: Stream,
    head: Head,
    read: Callable[[], bytes],
) -> AsyncGenerator[bytes, None]:
    """Yields the messages of a download. `head` describes the file; `read` returns its next piece, empty at the end."""
    digest = hashlib.sha256()
    while piece := await stream.blocking(read):
        digest.update(piece)
        # Each piece is in one place only, so that a client that doesn't read costs one copy of it, not four.
        message = _with(head, data=piece)
        head, piece = type(head)(), b""
        yield message
    yield _with(head, sha256=digest.hexdigest())


def _with(head: Head, **fields: bytes | str) -> bytes:
    """Returns a serialized message with the fields of `head` and `fields`."""
    message = type(head)(**fields)  # type: ignore[arg-type]
    message.MergeFrom(head)  # type: ignore[arg-type]
    encoded: bytes = message.SerializeToString()
    return encoded
