"""The server's handle of the process that quantizes graphs."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from layerserve_server.errors import safe_text
from layerserve_server.forking.fork_server import ForkServer
from layerserve_server.quantization.program import WALL_SECONDS

#: Module of the process's program.
PROGRAM = "layerserve_server.quantization.program"
#: Time without a graph after which the process ends, in seconds.
IDLE_SECONDS = 10.0
#: Maximum length of a reply, in bytes.
MAX_REPLY = 1 << 16


class QuantizationError(Exception):
    """A graph can't be quantized; the message has the reason."""


class Quantizer(ForkServer):
    """Has graphs quantized by another process, a child of it for each. Thread-safe."""

    def __init__(self) -> None:
        super().__init__(PROGRAM, [str(IDLE_SECONDS)])

    def quantize(self, folder: Path) -> None:
        """Quantizes the graph in `folder`, and writes the results there. Raises QuantizationError."""
        try:
            with self.connection(WALL_SECONDS) as channel:
                channel.sendall(json.dumps({"folder": str(folder.absolute())}).encode() + b"\n")
                with channel.makefile("rb") as messages:
                    reply = dict(json.loads(messages.readline(MAX_REPLY)))
            problem = _problem(reply)
        except (OSError, ValueError, TypeError) as wrong:
            text = safe_text(str(wrong), 200)
            raise QuantizationError(f"the process that quantizes graphs sent no reply: {text}") from wrong
        if problem:
            raise QuantizationError(problem)


def _problem(reply: dict[str, Any]) -> str:
    """Why a graph can't be quantized; empty if it was. Raises ValueError for a reply that makes no sense."""
    if "died" not in reply:
        return safe_text(str(reply.get("error", "")), 200)
    number = reply["died"]
    if reply.get("late") or number == signal.SIGXCPU:
        return "quantizing it takes too long"
    return f"quantizing it needs too much memory, or crashes ({signal.Signals(number).name if number else 'no signal'})"
