"""Program of the process that tunes models: it imports torch, and forks a child for each.

The server sends a JSON object (see `TuningProcess`). The child writes what is chosen to a folder. It sends a line for
each engine that it tries, {"trying": name}, and then {"dropped": {name: reason}} or {"error": why it can't be tuned}.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerserve_server.forking import forked

if TYPE_CHECKING:
    from layergraph.models.model import Model

#: Added to the niceness of the server.
NICENESS = 5
#: Maximum elapsed time for a model, in seconds, and for waiting while runs compute.
WALL_SECONDS, MAX_BUSY_SECONDS = 1800.0, 600.0


def main() -> None:
    """Forks for each model, until the server closes the socket."""
    # Requests come first.
    os.nice(NICENESS)
    from layerserve_server.inference.runner import load_plugins, make_ready

    load_plugins()
    make_ready()
    forked.serve(_handle)


def _handle(channel: socket.socket) -> None:
    line = channel.makefile("rb").readline()
    if not line:
        return
    job = dict(json.loads(line))

    def work() -> None:
        _send(channel, _tuned(job, lambda name: _send(channel, {"trying": name})))

    limit = WALL_SECONDS + MAX_BUSY_SECONDS
    forked.supervise(channel, work, seconds=limit * (os.cpu_count() or 1), memory_bytes=None, wall_seconds=limit)


def _send(channel: socket.socket, message: dict[str, Any]) -> None:
    channel.sendall(json.dumps(message).encode() + b"\n")


def _tuned(job: dict[str, Any], trying: Callable[[str], None]) -> dict[str, Any]:
    import torch
    from layergraph.execution.tuning.engine_folder import NOTE

    from layerserve_server.training.runs.computing import is_computing

    torch.set_num_threads(job["threads"])
    end = time.monotonic() + MAX_BUSY_SECONDS
    try:
        found = (
            _model(job)
            .plan()
            .tune(
                engines=job["engines"],
                seconds=job["seconds"],
                threads=job["threads"],
                shared=True,
                trying=trying,
                busy=lambda: time.monotonic() < end and is_computing(Path(job["runs"])),
                folder=Path(job["folder"]),
            )
        )
    except Exception as reason:
        # The file may have been removed or replaced meanwhile.
        return {"error": (str(reason) or type(reason).__name__)[:500]}
    reply: dict[str, Any] = {"dropped": dict(found.dropped)}
    if not (Path(job["folder"]) / NOTE).exists():
        why = "; ".join(f"{name}: {why}" for name, why in found.dropped.items())[:2000]
        reply |= {"error": f"no engine was chosen: {why}", "late": found.late}
    return reply


def _model(job: dict[str, Any]) -> Model:
    import layergraph

    from layerserve_server.importing.importer import Importer
    from layerserve_server.importing.imports import Imports

    if job["imports"] is None:
        return layergraph.load_model(Path(job["file"]))
    spare = None if job["spare"] is None else Path(job["spare"])
    imports = Imports(Path(job["imports"]), Importer(), spare)
    try:
        return imports.load(Path(job["file"]))
    finally:
        imports.close()


if __name__ == "__main__":
    main()
