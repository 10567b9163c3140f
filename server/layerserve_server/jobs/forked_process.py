"""A process without limits that was forked for the server."""

from __future__ import annotations

import os
import signal

from layerserve_server.jobs.channel import Channel


class ForkedProcess:
    """Outlives the server. Has the methods of subprocess.Popen that runs use."""

    def __init__(self, channel: Channel) -> None:
        """`channel` leads to the process's supervisor, which sends numbers. Raises OSError if none was started."""
        self._text = b""
        self.returncode: int | None = None
        while b"\n" not in self._text:
            if not (part := channel.socket.recv(64)):
                raise OSError("no process was started")
            self._text += part
        pid, _, self._text = self._text.partition(b"\n")
        self.pid = int(pid)
        self._socket = channel.socket.dup()
        self._socket.setblocking(False)

    def poll(self) -> int | None:
        """Returns the exit status; None while the process is alive. Raises ChildProcessError if it is unknown."""
        while self.returncode is None:
            if self._text.endswith(b"\n"):
                self.returncode = int(self._text)
                self.close()
                break
            try:
                part = self._socket.recv(64)
            except BlockingIOError:
                return None
            except OSError:
                part = b""
            if not part:
                self.close()
                raise ChildProcessError("the exit status of the process is unknown: its supervisor ended")
            self._text += part
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal. Raises ProcessLookupError if the process has ended."""
        os.kill(self.pid, number)

    def close(self) -> None:
        """Closes the connection to the supervisor. The process keeps running."""
        self._socket.close()
