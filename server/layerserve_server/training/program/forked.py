"""What a process becomes that is forked for a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from layerserve_server.training.run_folder.layout import CHILD_OUTPUT


def detach(folder: Path, environment: Mapping[str, str]) -> None:
    """Gives this process a session and an environment of its own, and the file in the run's folder as its output."""
    # Linux divides the processor among sessions first, and the session gets a low priority.
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(folder / CHILD_OUTPUT, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
