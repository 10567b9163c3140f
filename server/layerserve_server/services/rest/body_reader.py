"""Long bodies are read by another process: a child for each, with limits of memory and time.

Parsing JSON holds Python's lock, for a second and more per 100 MB, in which the server would answer no request; and it
takes many times the size of the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from layerserve_server.errors import InvalidRequestError, UnavailableError
from layerserve_server.jobs import failures, table
from layerserve_server.jobs.channel import Channel, JobDiedError
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.jobs.limits import JobLimits
from layerserve_server.transport.perimeter.limits import (
    JSON_BYTES_PER_SECOND,
    JSON_MEMORY_BYTES,
    JSON_MEMORY_FACTOR,
    JSON_SECONDS,
    LONG_JSON_BYTES,
    Limits,
)
from layerserve_server.transport.perimeter.memory import MemoryBudget


class BodyReader:
    """Reads long bodies. Thread-safe."""

    def __init__(self, jobs: Jobs, limits: Limits, memory: MemoryBudget) -> None:
        """What a child may take counts towards `memory`."""
        self._jobs = jobs
        self._limits = limits
        self._memory = memory

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
        limits = JobLimits(seconds, memory, wall_seconds=seconds)
        arguments = {"reader": reader, "options": options, "size": len(body)}
        self._memory.take(memory)
        try:
            with self._jobs.connection(table.READ_BODY, arguments, limits, seconds) as channel:
                reading = Reading(channel, self._limits)
                try:
                    channel.send_bytes(body)
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
    """A body that a child reads."""

    def __init__(self, channel: Channel, limits: Limits) -> None:
        self._channel = channel
        self._limits = limits

    def send(self, message: object) -> None:
        """Sends a message. Raises OSError."""
        self._channel.send(message)

    def line(self) -> dict[str, Any]:
        """Returns the next message. Raises the error that it has, and OSError."""
        try:
            found = self._channel.receive()
        except JobDiedError as died:
            what = "takes too long to read" if died.late else "takes too much memory to read"
            raise InvalidRequestError(f"the body: {what}; send the tensors in binary") from died
        failures.check(found, table.READ_BODY, table.READ_BODY.what)
        return found

    def message(self) -> bytes:
        """Returns the message after a line with its size. Raises TooLargeError, and as `line`."""
        size = int(self.line()["message"])
        self._limits.check_size(size)
        return self._channel.read(size)
