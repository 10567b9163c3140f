"""Converts all other output of the server to log lines, for JSON logs.

C libraries, the interpreter and child processes write to the file descriptors of standard output and error, bypassing
Python's logging. With JSON logs these lead into a pipe. A small process, `python -m
layerserve_server.observability.output`, converts its lines: a process and not a thread, so that the last output of a
crashing server isn't lost.
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

#: Maximum length of a line, in bytes. Longer lines are split.
MAX_LINE = 1 << 16
#: Severity in glog's format, which gRPC and torch use: "I1127 14:34:06.565407", "[W1127 ...".
_SEVERITY = re.compile(r"\[?([IWEF])\d{4} ")
_LEVELS = {"I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}

STDOUT, STDERR = 1, 2


class Rewriter:
    """The process that converts lines to log lines. It exits when all write ends of its pipe are closed."""

    def __init__(self) -> None:
        """Starts the process. Its log lines, and those written to `stream`, go to the current standard error."""
        #: Stream for lines that are JSON already.
        self.stream: TextIO = os.fdopen(os.dup(STDERR), "w", buffering=1)
        reader, self._writer = os.pipe()
        self._process = subprocess.Popen([sys.executable, "-m", __name__], stdin=reader, stdout=STDERR)
        os.close(reader)

    def take(self, descriptor: int) -> None:
        """Redirects a file descriptor of this process and its children into the pipe."""
        os.dup2(self._writer, descriptor)
        if descriptor == STDOUT:
            # Line-buffered as on a terminal, so that lines appear when they are printed.
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def main() -> None:
    """Converts the lines of standard input until it ends."""
    # Signals to the process group are for the server, which may still write afterwards.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    formatter = JsonFormatter()
    while line := sys.stdin.buffer.readline(MAX_LINE):
        text = line.decode(errors="replace").rstrip()
        if text:
            os.write(STDOUT, (rewritten(text, formatter) + "\n").encode())


def rewritten(text: str, formatter: logging.Formatter) -> str:
    """Returns a line as a log line. A log line of another process of the server is returned unchanged."""
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
