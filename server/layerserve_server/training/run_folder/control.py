"""What was set for a run since its request, by calls or the server: a file that the run's process reads, too."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from layerserve_server.disk import json_object, replace_file
from layerserve_server.records import Int32, checked

#: Name of the file in the run's folder.
CONTROL = "control.json"


@dataclass(frozen=True, slots=True)
class RunControl:
    """The content of the file. None means that the request's value holds."""

    #: Whether the run is to pause after the current batch; its process writes a checkpoint and ends.
    pause: bool = False
    #: Whether training is to end after the current batch, and the result to be published; and why, if no call asked.
    stop: bool = False
    why_stopped: str = ""
    #: Whether the run goes on although its process was killed: another time it fails.
    killed: bool = False
    priority: Int32 | None = None
    description: str | None = None
    metadata: Mapping[str, str] | None = None


class ControlFile:
    """The control of the run in a folder. Reads the file again when it has changed."""

    __slots__ = ("_held", "_path", "_stamp")

    def __init__(self, folder: Path) -> None:
        self._path = folder / CONTROL
        self._stamp: tuple[int, ...] = ()
        self._held = RunControl()

    def read(self) -> RunControl:
        """Returns the present control; if there is no file or it can't be read, the one read last."""
        try:
            state = os.stat(self._path)
            stamp = (state.st_ino, state.st_mtime_ns, state.st_size)
            if stamp != self._stamp:
                self._held = checked(RunControl(**json_object(self._path.read_text("utf-8"))))
                self._stamp = stamp
        except (OSError, ValueError, TypeError):
            pass
        return self._held

    def set(self, **values: Any) -> None:
        """Sets values, atomically. Raises OSError on failure, and then leaves the file unchanged."""
        changed = replace(self.read(), **values)
        replace_file(self._path, json.dumps(asdict(changed)))
        self._held = changed
