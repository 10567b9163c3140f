"""The server's connection to a session's process, in the event loop of the streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerserve_server.extensions.online.frames import PREFIX, BrokenFrameError, Frame, sizes
from layerserve_server.extensions.online.session_socket import socket_path

#: Size of the buffer of a connection, in bytes.
BUFFER = 1 << 20


class SessionClosedError(Exception):
    """The session's process has ended, or another stream has its connection."""


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """An input or output of the session's model."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class SessionClient:
    """A connection. Requests are answered in their order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        #: What the process replied first: its step and the version that was published last.
        self.ready: Frame = Frame({})
        self.inputs: Sequence[SessionSpec] = ()
        self.outputs: Sequence[SessionSpec] = ()

    @classmethod
    async def open(cls, folder: Path) -> SessionClient:
        """Connects to the process of the run in `folder`. Raises SessionClosedError if there is none."""
        try:
            with socket_path(folder) as path:
                link = cls(*await asyncio.open_unix_connection(path, limit=BUFFER))
        except OSError as error:
            raise SessionClosedError from error
        try:
            await link.send(Frame({"kind": "attach"}))
            link.ready = await link.receive(_nothing)
            link.inputs, link.outputs = (_specs(link.ready.header[name]) for name in ("inputs", "outputs"))
        except BaseException:
            link.close()
            raise
        return link

    async def send(self, frame: Frame) -> None:
        """Sends a request, and waits until another may follow. Raises SessionClosedError."""
        try:
            for part in frame.encoded():
                self._writer.write(part)
                await self._writer.drain()
        except OSError as error:
            raise SessionClosedError from error

    async def receive(self, take: Callable[[int], None]) -> Frame:
        """Returns the next reply. `take` gets the size of its payload before it is read. Raises SessionClosedError."""
        try:
            header, payload, check = sizes(await self._reader.readexactly(PREFIX.size))
            take(payload)
            return Frame.decoded(await self._reader.readexactly(header), await self._reader.readexactly(payload), check)
        except (OSError, asyncio.IncompleteReadError, BrokenFrameError) as error:
            raise SessionClosedError from error

    def close(self) -> None:
        """Closes the connection."""
        self._writer.close()


def _specs(given: Sequence[Sequence[Any]]) -> list[SessionSpec]:
    return [SessionSpec(name, dtype, tuple(shape)) for name, dtype, shape in given]


def _nothing(size: int) -> None:
    """Takes no memory: the first reply has no payload."""
