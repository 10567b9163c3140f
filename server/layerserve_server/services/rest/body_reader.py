"""Long bodies are read by another process: a child for each, with limits of memory and time.

Parsing JSON holds Python's lock, for a second and more per 100 MB, in which the server would answer no request; and it
takes many times the size of the text.
"""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from layerserve_server import errors
from layerserve_server.errors import InvalidRequestError, InvalidTensorError, UnavailableError
from layerserve_server.forking.fork_server import ForkServer
from layerserve_server.services.rest.body_talk import MAX_LINE
from layerserve_server.transport.perimeter.limits import (
    JSON_BYTES_PER_SECOND,
    JSON_MEMORY_BYTES,
    JSON_MEMORY_FACTOR,
    JSON_SECONDS,
    LONG_JSON_BYTES,
    Limits,
)
from layerserve_server.transport.perimeter.memory import MemoryBudget

#: Module of the process's program.
PROGRAM = "layerserve_server.services.rest.body_program"
#: Time without a body after which the process ends, in seconds.
IDLE_SECONDS = 300.0
#: Errors that a child reports, by the names of their classes.
ERRORS: Mapping[str, type[InvalidRequestError]] = {"invalid": InvalidRequestError, "tensor": InvalidTensorError}


class BodyReader:
    """Reads long bodies. Thread-safe."""

    def __init__(self, limits: Limits, memory: MemoryBudget, readers: Iterable[str]) -> None:
        """`readers` are modules, each with a function `read_long`. What a child may take counts towards `memory`."""
        self._limits = limits
        self._memory = memory
        self._server = ForkServer(PROGRAM, [str(IDLE_SECONDS), *readers])

    def close(self) -> None:
        """Ends the process."""
        self._server.close()

    def is_long(self, size: int) -> bool:
        """Whether a JSON text of `size` bytes is read by another process."""
        return size > LONG_JSON_BYTES

    @contextmanager
    def reading(self, body: bytes, reader: str, **options: object) -> Iterator[Reading]:
        """Has a module's `read_long` read a body, with these options. Gives what exchanges messages with it.

        Raises InvalidRequestError, TooLargeError and UnavailableError.
        """
        seconds = JSON_SECONDS + len(body) / JSON_BYTES_PER_SECOND
        memory = JSON_MEMORY_BYTES + JSON_MEMORY_FACTOR * len(body)
        self._memory.take(memory)
        try:
            with self._server.connection(seconds) as channel:
                reading = Reading(channel, self._limits)
                job = {"reader": reader, "options": options, "size": len(body)}
                reading.send({**job, "seconds": seconds, "memory": memory})
                try:
                    channel.sendall(body)
                except ConnectionError:
                    # The child has ended before it had read all. Raises what it has sent about that.
                    reading.line()
                    raise
                yield reading
        except TimeoutError:
            raise InvalidRequestError(f"the body: can't be read in {seconds:.0f} seconds") from None
        except OSError as error:
            raise UnavailableError(f"the process that reads long bodies has ended: {error}") from error
        finally:
            self._memory.give(memory)


class Reading:
    """A body that a child reads. Messages are JSON objects, one per line."""

    def __init__(self, channel: socket.socket, limits: Limits) -> None:
        self._channel = channel
        self._limits = limits
        self._buffer = b""

    def send(self, message: object) -> None:
        """Sends a message. Raises OSError."""
        self._channel.sendall(json.dumps(message).encode() + b"\n")

    def line(self) -> dict[str, Any]:
        """Returns the next message. Raises the error that it has, and OSError."""
        while b"\n" not in self._buffer:
            part = self._channel.recv(MAX_LINE)
            self._buffer += part
            if not part or len(self._buffer) > 2 * MAX_LINE:
                raise ConnectionError("it sent no reply")
        line, _, self._buffer = self._buffer.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        if "died" in found:
            late = found["late"] or found["died"] == signal.SIGXCPU
            what = "takes too long to read" if late else "takes too much memory to read"
            raise InvalidRequestError(f"the body: {what}; send the tensors in binary")
        if "error" in found:
            raise ERRORS[found["kind"]](errors.safe_text(str(found["error"])))
        return found

    def message(self) -> bytes:
        """Returns the message after a line with its size. Raises TooLargeError, and as `line`."""
        size = int(self.line()["message"])
        self._limits.check_size(size)
        message = bytearray(size)
        message[: len(self._buffer)] = self._buffer
        view, at = memoryview(message), len(self._buffer)
        while at < size:
            count = self._channel.recv_into(view[at:])
            if not count:
                raise ConnectionError("it sent a part of its reply")
            at += count
        return bytes(message)
