"""Lines that a reader of long bodies exchanges with the server, from its process."""

from __future__ import annotations

import json
import socket
from typing import IO, Any

from layerserve_server.errors import InvalidRequestError

#: Maximum length of a line, in bytes.
MAX_LINE = 1 << 16


class Talk:
    """The reader's end. Each line is a JSON value."""

    def __init__(self, lines: IO[bytes], channel: socket.socket) -> None:
        self._lines, self._channel = lines, channel

    def send(self, value: object) -> None:
        """Sends a line. Raises InvalidRequestError if it is too long."""
        line = json.dumps(value).encode() + b"\n"
        if len(line) > MAX_LINE:
            raise InvalidRequestError("the body: got too many names of inputs or outputs")
        self._channel.sendall(line)

    def receive(self) -> Any:
        """Returns the server's next line. Raises SystemExit if the server has given up."""
        if not (line := self._lines.readline()):
            raise SystemExit
        return json.loads(line)
