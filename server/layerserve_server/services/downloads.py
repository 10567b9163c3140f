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
        head.data = piece
        message = head.SerializeToString()
        # Callers that take nothing have one copy of a piece kept here, not three.
        head, piece = type(head)(), b""
        yield message
    head.sha256 = digest.hexdigest()
    yield head.SerializeToString()
