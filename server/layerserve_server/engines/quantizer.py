"""Has graphs quantized in child processes."""

from __future__ import annotations

import os
from pathlib import Path

from layerserve_server.errors import safe_text
from layerserve_server.jobs import table
from layerserve_server.jobs.channel import JobDiedError
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.jobs.limits import JobLimits

#: Memory in bytes: for any graph, and for each byte of it.
MEMORY_BYTES, MEMORY_PER_BYTE = 4 << 30, 16
#: Maximum processor time and elapsed time, in seconds.
SECONDS, WALL_SECONDS = 1200.0, 1800.0


class QuantizationError(Exception):
    """A graph can't be quantized; the message has the reason."""


def quantize(jobs: Jobs, folder: Path) -> None:
    """Quantizes the graph in `folder`, and writes the results there. Raises QuantizationError."""
    size = sum(entry.stat().st_size for entry in os.scandir(folder))
    limits = JobLimits(SECONDS, MEMORY_BYTES + MEMORY_PER_BYTE * size, wall_seconds=WALL_SECONDS)
    arguments = {"folder": str(folder.absolute())}
    try:
        with jobs.connection(table.QUANTIZE, arguments, limits, WALL_SECONDS) as channel:
            reply = channel.receive()
    except JobDiedError as died:
        raise QuantizationError(_death(died)) from died
    except OSError as wrong:
        text = safe_text(str(wrong), 200)
        raise QuantizationError(f"the process that quantizes graphs sent no reply: {text}") from wrong
    if reply:
        raise QuantizationError(safe_text(str(reply.get("error", "")), 200) or "quantizing it failed")


def _death(died: JobDiedError) -> str:
    if died.late:
        return "quantizing it takes too long"
    return f"quantizing it needs too much memory, or crashes ({died.signal_name or 'no signal'})"
