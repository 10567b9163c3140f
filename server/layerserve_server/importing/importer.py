"""The server's handle of the process that reads model files."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerserve_server.forking.fork_server import ForkServer

if TYPE_CHECKING:
    from layergraph.archive.imported.form import Wanted

#: Module of the process's program.
PROGRAM = "layerserve_server.importing.program"
#: Time without a file after which the process ends, in seconds.
IDLE_SECONDS = 60.0
#: Maximum length of a reply, in bytes.
MAX_REPLY = 1 << 20
#: Maximum elapsed time for reading, in seconds; and, for large files, the minimum throughput in bytes per second.
_SECONDS, _BYTES_PER_SECOND = 60.0, 5_000_000
#: Number of times that the process is started for a file: it may have been killed for lack of memory.
_TRIES = 2


class Importer(ForkServer):
    """Has model files read by another process, a child of it for each file. Thread-safe."""

    def __init__(self) -> None:
        super().__init__(PROGRAM, [str(IDLE_SECONDS)])

    @contextmanager
    def reading(self, path: Path, folder: Path) -> Iterator[Reading]:
        """Has the model file at `path` described in `folder`, and its arrays written when they are asked for.

        Raises ModelFileError if the file can't be used, and OSError if it can't be read or the folder not written.
        """
        seconds = _SECONDS + path.stat().st_size / _BYTES_PER_SECOND
        for attempt in range(_TRIES):
            with self.connection(seconds) as channel:
                reading = Reading(channel, path, seconds)
                try:
                    reading.ask({"path": str(path.absolute()), "folder": str(folder)})
                except ConnectionError:
                    if attempt + 1 < _TRIES:
                        # The process itself has died.
                        self.restart()
                        continue
                    raise
                yield reading
                return


class Reading:
    """A file that a child is reading."""

    def __init__(self, channel: socket.socket, path: Path, seconds: float) -> None:
        self._channel = channel
        self._path = path
        self._seconds = seconds

    def arrays(self, wanted: Sequence[Wanted]) -> None:
        """Has arrays written. Raises as `Importer.reading` does."""
        self.ask({"arrays": wanted})

    def ask(self, message: dict[str, Any]) -> None:
        """Sends a message and waits for the reply, which may be an error. Raises ConnectionError without a reply."""
        # Imported here, since layergraph imports torch.
        from layergraph.archive.imported.form import raised
        from layergraph.errors import CorruptFileError

        try:
            self._channel.sendall(json.dumps(message).encode() + b"\n")
            reply = self._reply()
            error = raised(reply["error"], self._path) if "error" in reply else None
            death = _death(reply) if "died" in reply else ""
        except TimeoutError:
            raise CorruptFileError(self._path, f"can't be read in {self._seconds:.0f} seconds") from None
        except (ValueError, LookupError, TypeError) as wrong:
            # From a process that its file has taken over.
            raise ConnectionError(f"the process that reads model files sent no reply: {str(wrong)[:200]}") from wrong
        if death:
            raise CorruptFileError(self._path, f"{death}, when another process reads it")
        if error is not None:
            raise error
        if "system" in reply:
            raise OSError(f"{self._path.name}: can't be read by another process: {str(reply['system'])[:200]}")

    def _reply(self) -> dict[str, Any]:
        text = b""
        while not text.endswith(b"\n"):
            part = self._channel.recv(1 << 16)
            text += part
            if not part or len(text) > MAX_REPLY:
                raise ConnectionError("the process that reads model files has ended")
        reply: dict[str, Any] = dict(json.loads(text))
        return reply


def _death(reply: dict[str, Any]) -> str:
    number = reply["died"]
    if number == signal.SIGXCPU or reply["late"]:
        return "takes too long"
    return f"crashes its parser ({signal.Signals(number).name})" if number else "ends its parser"
