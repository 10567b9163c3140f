"""Long bodies are read by another process: a child for each, with limits of memory and time.

Parsing JSON holds Python's lock, for a second and more per 100 MB, in which the server would answer no request; and it
takes many times the size of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from layerserve_server.errors import InvalidRequestError, UnavailableError
from layerserve_server.jobs import failures, table
from layerserve_server.jobs.channel import Channel, JobDiedError
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.jobs.limits import JobLimits
from layerserve_server.services.rest.infer_body import Wanted
from layerserve_server.services.rest.predict_body import InputSpec, Outline
from layerserve_server.transport.limits import Limits
from layerserve_server.transport.memory import MemoryBudget

#: Size above which a JSON text is read by another process, in bytes: shorter ones take a few milliseconds.
LONG_BYTES = 256 * 1024
#: Memory that a child may take, in bytes, and in bytes per byte of its text: numbers take up to twenty.
MEMORY_BYTES, MEMORY_FACTOR = 64 << 20, 20
#: Maximum time for reading, in seconds; and, for large bodies, the minimum throughput in bytes per second.
SECONDS, BYTES_PER_SECOND = 10.0, 1_000_000


class BodyReader:
    """Reads long bodies. Thread-safe."""

    def __init__(self, jobs: Jobs, limits: Limits, memory: MemoryBudget) -> None:
        """What a child may take counts towards `memory`."""
        self._jobs = jobs
        self._limits = limits
        self._memory = memory

    def is_long(self, size: int) -> bool:
        """Whether a JSON text of `size` bytes is read by another process."""
        return size > LONG_BYTES

    def infer(self, body: bytes, size: int) -> tuple[bytes, Wanted]:
        """Does what `infer_body.read` does, and serializes the message. Raises as it does."""
        with self._reading(body, {"infer": size}) as reading:
            wanted = reading.line()
            return reading.message(), Wanted(wanted["binary"], wanted["default"])

    def predict(self, body: bytes, specs: Callable[[Outline], Mapping[str, InputSpec]]) -> tuple[Outline, bytes]:
        """Does what `PredictBody` does. `specs` returns those of a body's inputs, or raises an error."""
        with self._reading(body, {"predict": True}) as reading:
            outline = Outline(**reading.line())
            reading.send({name: [spec.dtype, list(spec.shape)] for name, spec in specs(outline).items()})
            return outline, reading.message()

    @contextmanager
    def _reading(self, body: bytes, arguments: dict[str, Any]) -> Iterator[_Reading]:
        seconds = SECONDS + len(body) / BYTES_PER_SECOND
        memory = MEMORY_BYTES + MEMORY_FACTOR * len(body)
        limits = JobLimits(seconds, memory, wall_seconds=seconds)
        self._memory.take(memory)
        try:
            given = {**arguments, "size": len(body)}
            with self._jobs.connection(table.READ_BODY, given, limits, seconds) as channel:
                reading = _Reading(channel, self._limits)
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


class _Reading:
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
        if size > self._limits.max_message_bytes:
            raise self._limits.too_large(size)
        return self._channel.read(size)
