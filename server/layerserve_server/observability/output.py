"""With JSON logs, whatever else is printed becomes a log line.

`python -m layerserve_server.observability.output` rewrites it.

Libraries in C, the interpreter and child processes write to the file descriptors of standard output and error, past
Python's logging. These lead into a pipe then, which a small process reads: a process, not a thread, so that the last
words of a server that crashes are not lost with it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from typing import TextIO

from layerserve_server.observability.logs import JsonFormatter

#: Longest line, in bytes; what is longer becomes several.
MAX_LINE = 1 << 16
#: A severity as glog writes it, which gRPC and torch do: "I1127 14:34:06.565407", "[W1127 ...".
_SEVERITY = re.compile(r"\[?([IWEF])\d{4} ")
_LEVELS = {"I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}

STDOUT, STDERR = 1, 2


class Rewriter:
    """The process that turns lines into log lines. It ends when nobody can write to it any more."""

    def __init__(self) -> None:
        """Starts it. Its log lines go where standard error goes now, and so do those that are written to `stream`."""
        #: Where log lines go that are JSON already.
        self.stream: TextIO = os.fdopen(os.dup(STDERR), "w", buffering=1)
        reader, self._writer = os.pipe()
        self._process = subprocess.Popen([sys.executable, "-m", __name__], stdin=reader, stdout=STDERR)
        os.close(reader)

    def take(self, descriptor: int) -> None:
        """Rewrites what this process and those that it starts write to a descriptor."""
        os.dup2(self._writer, descriptor)
        if descriptor == STDOUT:
            # As on a terminal, so that lines come when they are printed.
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def main() -> None:
    """Rewrites lines until the input ends."""
    # Signals to a whole group are for the server, which has more to say then.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    formatter = JsonFormatter()
    while line := sys.stdin.buffer.readline(MAX_LINE):
        text = line.decode(errors="replace").rstrip()
        if text:
            os.write(STDOUT, (rewritten(text, formatter) + "\n").encode())


def rewritten(text: str, formatter: logging.Formatter) -> str:
    """A line as a log line; the log line of another process of the server as it is."""
    if _is_log_line(text):
        return text
    found = _SEVERITY.match(text)
    level = _LEVELS[found[1]] if found else logging.WARNING
    record = logging.LogRecord("output", level, "", 0, text, None, None)
    return formatter.format(record)


def _is_log_line(text: str) -> bool:
    if not text.startswith('{"time": '):
        return False
    try:
        return bool({"time", "level", "message"} <= json.loads(text).keys())
    except ValueError:
        return False


if __name__ == "__main__":
    main()
