"""The socket of a session's process, through which the server sends requests; and its path for both sides."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from layerserve_server.extensions.online.frames import PREFIX, BrokenFrameError, Frame, sizes
from layerserve_server.training.run_folder.result import Interruption

#: Name of the socket in the run's folder.
SOCKET = "session.sock"
#: Longest path of a socket, in bytes; the limit of all systems is above that.
MAX_PATH = 90
#: Time in which the rest of a request must come, and a reply be taken, in seconds.
STALLED_SECONDS = 60.0
#: Largest piece that is received or sent at once, in bytes.
PIECE = 1 << 20


@contextmanager
def socket_path(folder: Path) -> Iterator[str]:
    """Yields a path of the socket in a run's folder that is short enough for a socket."""
    path = str(folder / SOCKET)
    if len(os.fsencode(path)) <= MAX_PATH or not Path("/proc/self/fd").is_dir():
        yield path
        return
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{opened}/{SOCKET}"
    finally:
        os.close(opened)


class SessionSocket:
    """One connection at a time: a new one takes the place of the one before.

    While the process waits, a signal to interrupt it raises Interruption; otherwise the next wait does.
    """

    def __init__(self, folder: Path) -> None:
        """Opens the socket in the run's folder. Raises OSError."""
        self._interrupted = False
        self._woken, wake = socket.socketpair()
        for end in (self._woken, wake):
            end.setblocking(False)
        self._wake = wake
        # Signals end a wait: Python itself would go on with it.
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self._folder = folder
        self._listener: socket.socket | None = None
        self._connection: socket.socket | None = None

    def open(self) -> None:
        """Starts to accept connections. Raises OSError."""
        (self._folder / SOCKET).unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        with socket_path(self._folder) as path:
            self._listener.bind(path)
        self._listener.listen(4)
        self._listener.setblocking(False)

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Interrupts the current or next wait. A signal handler."""
        self._interrupted = True

    def receive(self, until: float) -> Frame | None:
        """Returns the next request; None if none has come by `until`, on the clock of `time.monotonic`."""
        assert self._listener is not None
        while True:
            waited = [self._listener, *([self._connection] if self._connection is not None else [])]
            ready = self._wait(waited, [], until)
            if not ready:
                return None
            if self._listener in ready:
                self._drop()
                with contextlib.suppress(OSError):
                    self._connection, _ = self._listener.accept()
                    self._connection.setblocking(False)
                continue
            try:
                header, payload, check = sizes(self._exactly(PREFIX.size))
                return Frame.decoded(self._exactly(header), self._exactly(payload), check)
            except (OSError, BrokenFrameError):
                self._drop()

    def reply(self, frame: Frame) -> None:
        """Sends a reply. It is lost if the connection has ended."""
        try:
            for part in frame.encoded():
                self._send(part)
        except OSError:
            self._drop()

    def pause(self, seconds: float) -> None:
        """Waits. Raises Interruption."""
        self._wait([], [], time.monotonic() + seconds)

    def close(self) -> None:
        """Closes the socket."""
        self._drop()
        signal.set_wakeup_fd(-1)
        self._wake.close()
        self._woken.close()
        if self._listener is not None:
            self._listener.close()
            (self._folder / SOCKET).unlink(missing_ok=True)

    def _exactly(self, count: int) -> bytes:
        assert self._connection is not None
        data = bytearray(count)
        view, until = memoryview(data), time.monotonic() + STALLED_SECONDS
        while view:
            if not self._wait([self._connection], [], until):
                raise TimeoutError
            received = self._connection.recv_into(view[:PIECE])
            if not received:
                raise ConnectionError
            view = view[received:]
            until = time.monotonic() + STALLED_SECONDS
        return bytes(data)

    def _send(self, data: bytes) -> None:
        view, until = memoryview(data), time.monotonic() + STALLED_SECONDS
        while view:
            if self._connection is None:
                raise ConnectionError
            if not self._wait([], [self._connection], until):
                raise TimeoutError
            sent = self._connection.send(view[:PIECE])
            view = view[sent:]
            until = time.monotonic() + STALLED_SECONDS

    def _wait(self, reading: list[socket.socket], writing: list[socket.socket], until: float) -> list[socket.socket]:
        """Returns the sockets that are ready; none after `until`. Raises Interruption."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        for one in reading:
            poll.register(one, select.POLLIN)
        for one in writing:
            poll.register(one, select.POLLOUT)
        by_number = {one.fileno(): one for one in (*reading, *writing)}
        while True:
            if self._interrupted:
                raise Interruption
            left = until - time.monotonic()
            found = [number for number, _ in poll.poll(max(0.0, left) * 1000)]
            if self._woken.fileno() in found:
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(PIECE)
            if ready := [by_number[number] for number in found if number in by_number]:
                return ready
            if left <= 0:
                return []

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
