"""Program of the process that quantizes graphs: it forks a child with limits for each. It doesn't import torch.

The server sends the path of a folder, in which the child writes (see `layergraph.execution.engines.onnx.quantization`).
The reply is a JSON object: {}, or {"error": why the graph can't be quantized}.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from pathlib import Path

from layerserve_server.forking import forked

#: Added to the niceness of the server.
NICENESS = 5
#: Memory in bytes: for any graph, and for each byte of it.
MEMORY_BYTES, MEMORY_PER_BYTE = 4 << 30, 16
#: Maximum processor time and elapsed time, in seconds.
SECONDS, WALL_SECONDS = 1200.0, 1800.0


def main() -> None:
    """Forks for each folder, until the server closes the socket."""
    # Requests come first.
    os.nice(NICENESS)
    forked.serve(_handle)


def _handle(channel: socket.socket) -> None:
    line = channel.makefile("rb").readline()
    if not line:
        return
    folder = Path(json.loads(line)["folder"])
    size = sum(entry.stat().st_size for entry in os.scandir(folder))

    def work() -> None:
        channel.sendall(json.dumps(_quantized(folder)).encode() + b"\n")

    forked.supervise(
        channel,
        work,
        seconds=SECONDS,
        memory_bytes=MEMORY_BYTES + MEMORY_PER_BYTE * size,
        wall_seconds=WALL_SECONDS,
    )


def _quantized(folder: Path) -> dict[str, str]:
    from layerserve_server.forking.bare import import_bare

    import_bare("layergraph")
    # Intermediate files, which would stay if this process were killed.
    tempfile.tempdir = str(folder)
    from layergraph.execution.engines.onnx.quantization import quantize

    try:
        quantize(folder)
    except Exception as reason:
        # The quantization may raise anything for graphs that it doesn't expect.
        return {"error": (str(reason) or type(reason).__name__)[:500]}
    return {}


if __name__ == "__main__":
    main()
