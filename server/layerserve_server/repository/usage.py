"""When models were last used, in a file of the state folder, for the order in which they are loaded after a restart."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path

from layerserve_server.disk import locked, replace_file
from layerserve_server.records import LATEST, read_object

logger = logging.getLogger(__name__)


class Usage:
    """The file: {model: Unix time in seconds}. Processes of a server may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: Mapping[str, float] = {}
        self._at = time.monotonic()

    def read(self) -> dict[str, float]:
        """Returns its content; empty if there is none, or it is damaged."""
        found = read_object(self._path).items()
        return {name: float(used) for name, used in found if type(used) in (int, float) and 0 < used < LATEST}

    def write(self, uses: Mapping[str, float], seconds: float) -> None:
        """Replaces it, if it was written more than `seconds` ago and has changed. Other models are left out."""
        if time.monotonic() - self._at < seconds or uses == self._written:
            return
        self._at = time.monotonic()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self._path.with_suffix(".lock")):
                known = self.read()
                newest = {name: max(used, known.get(name, 0.0)) for name, used in uses.items()}
                replace_file(self._path, json.dumps(newest))
        except OSError as error:
            logger.warning("can't write down which models were used: %s: %s", self._path.name, error.strerror)
            return
        self._written = dict(uses)
