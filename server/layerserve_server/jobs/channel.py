"""What the server and a child process say to one another: JSON objects, one a line, and bytes."""

from __future__ import annotations

import json
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from layerserve_server.errors import CallCancelledError

#: Interval at which it is checked whether the caller still waits, in seconds.
GONE_CHECK_SECONDS = 0.05
#: Maximum length of a message to the server, in bytes.
MAX_MESSAGE = 1 << 20
_PART = 1 << 16


def never() -> bool:
    """Returns False: the caller waits until the reply comes."""
    return False


class JobDiedError(Exception):
    """A job ended without a reply: killed by `signal`, or exited if that is 0, as for lack of memory."""

    def __init__(self, number: int, *, late: bool) -> None:
        super().__init__(f"signal {number}")
        self.signal = number
        #: Whether it exceeded its time limit.
        self.late = late or number == signal.SIGXCPU

    @property
    def signal_name(self) -> str:
        """Name of the signal; empty if there was none."""
        return signal.Signals(self.signal).name if self.signal else ""


class Channel:
    """One end of a connection. The other end isn't trusted: whatever it sends is a message or an error."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._received = b""

    def send(self, message: object) -> None:
        """Sends an object. Raises OSError."""
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def send_bytes(self, data: bytes | memoryview) -> None:
        """Sends bytes, whose number the other end has to know. Raises OSError."""
        self.socket.sendall(data)

    def request(self) -> dict[str, Any]:
        """Returns the next object from the server, of any length. Raises OSError."""
        return self._object(None, never)

    def receive(self, gone: Callable[[], bool] = never) -> dict[str, Any]:
        """Returns the next object from a child.

        Raises JobDiedError if the child has died, OSError if there is no message, and CallCancelledError once `gone`
        returns True.
        """
        message = self._object(MAX_MESSAGE, gone)
        if "died" not in message:
            return message
        number, late = message["died"], message.get("late")
        if not isinstance(number, int) or (number != 0 and number not in signal.valid_signals()):
            raise ConnectionError("it sent a message that makes no sense")
        raise JobDiedError(number, late=bool(late))

    def read(self, size: int) -> bytes:
        """Returns this number of bytes. Raises OSError."""
        data = bytearray(size)
        self.read_into(memoryview(data))
        return bytes(data)

    def read_into(self, view: memoryview) -> None:
        """Reads as many bytes as fit into a view of bytes. Raises OSError."""
        size = len(view)
        taken, self._received = self._received[:size], self._received[size:]
        view[: len(taken)] = taken
        at = len(taken)
        while at < size:
            count = self.socket.recv_into(view[at:])
            if not count:
                raise ConnectionError("it sent a part of a message")
            at += count

    def _object(self, limit: int | None, gone: Callable[[], bool]) -> dict[str, Any]:
        line = self._line(limit, gone)
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError, RecursionError) as wrong:
            raise ConnectionError(f"it sent no message: {str(wrong)[:200]}") from wrong

    def _line(self, limit: int | None, gone: Callable[[], bool]) -> bytes:
        parts = [self._received]
        length = len(self._received)
        while b"\n" not in parts[-1]:
            if gone is not never:
                self._wait(gone)
            parts.append(self.socket.recv(_PART))
            length += len(parts[-1])
            if not parts[-1]:
                raise ConnectionError("it has ended")
            if limit is not None and length > limit and b"\n" not in parts[-1]:
                raise ConnectionError("its message is too long")
        line, _, self._received = b"".join(parts).partition(b"\n")
        if limit is not None and len(line) > limit:
            raise ConnectionError("its message is too long")
        return line

    def _wait(self, gone: Callable[[], bool]) -> None:
        waiting = self.socket.gettimeout()
        end = float("inf") if waiting is None else time.monotonic() + waiting
        while not select.select([self.socket], [], [], GONE_CHECK_SECONDS)[0]:
            if gone():
                raise CallCancelledError("the client cancelled the call")
            if time.monotonic() > end:
                raise TimeoutError("no reply in time")
