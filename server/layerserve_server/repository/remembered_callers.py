"""The callers of each restricted model, remembered in the state folder.

A restriction ends when a settings file without `callers` is read. It doesn't end because a file or a model is gone: the
runs of the model are still there, and a model of the same name may come back without its settings.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from layerserve_server.access.reserved import UNREADABLE, Restriction
from layerserve_server.disk import json_object, replace_file, sync
from layerserve_server.errors import safe_text
from layerserve_server.repository.layout import MODEL_NAME

logger = logging.getLogger(__name__)

SUFFIX = ".json"


class RememberedCallers:
    """A folder with a file NAME.json for each restricted model: {"callers": [...]}. Other servers may write it, too."""

    def __init__(self, folder: Path, *, writes: bool) -> None:
        """Only the process that `writes` changes the folder."""
        self._folder = folder
        self._writes = writes
        #: What is known of models, also if it couldn't be written.
        self._known: dict[str, Restriction] = {}
        #: Models whose settings this process has read.
        self._of_settings: set[str] = set()
        #: Models with a file, also one that can't be read.
        self._on_disk: set[str] = set()
        #: State of the folder when it was last read; None if it couldn't be.
        self._stamp: int | None = 0
        self._reported: set[str] = set()

    def models(self) -> Iterable[str]:
        """Returns the names of the models that are restricted."""
        return tuple(self._known)

    def of(self, model: str) -> Restriction | None:
        """Returns the restriction of a model; None if it has none."""
        return UNREADABLE if self._stamp is None else self._known.get(model)

    def refresh(self) -> None:
        """Reads the folder if it has changed. A file that can't be read restricts its model to those who manage it.

        A file that was lost is written again: the model may be gone, and then nothing else knows its callers.
        """
        self._look()
        if self._writes and self._stamp is not None:
            for model in self._known.keys() - self._on_disk:
                self._write(model)

    def _look(self) -> None:
        try:
            stamp = self._folder.stat().st_mtime_ns
            if stamp == self._stamp:
                return
            names = {path.name.removesuffix(SUFFIX) for path in self._folder.iterdir() if path.suffix == SUFFIX}
        except FileNotFoundError:
            self._stamp, self._on_disk = 0, set()
            return
        except OSError as error:
            self._report(f"{self._folder}: {error.strerror}; only callers that manage a model may use it")
            self._stamp = None
            return
        self._known |= {name: self._read(name) for name in names if MODEL_NAME.fullmatch(name)}
        if not self._writes:
            # What this process has read of settings stays: it may be that it couldn't be written.
            self._known = {name: one for name, one in self._known.items() if name in names | self._of_settings}
        self._stamp, self._on_disk = stamp, names

    def remember(self, model: str, restriction: Restriction | None) -> None:
        """Notes what the settings of a model say; None for all callers. What couldn't be written is written again."""
        written = (model in self._on_disk) == (restriction is not None)
        if self._stamp is not None and self._known.get(model) == restriction and written:
            return
        if restriction is None:
            self._known.pop(model, None)
            self._of_settings.discard(model)
        else:
            self._known[model] = restriction
            self._of_settings.add(model)
        if self._writes:
            self._write(model)

    def _write(self, model: str) -> None:
        restriction, path = self._known.get(model), self._folder / f"{model}{SUFFIX}"
        try:
            if restriction is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
                replace_file(path, json.dumps({"callers": restriction.callers}), flushed=True)
                self._on_disk.add(model)
            elif path.exists():
                path.unlink()
                sync(self._folder)
                self._on_disk.discard(model)
        except OSError as error:
            self._report(f"can't write the callers of model '{model}' to {path}: {error.strerror}")

    def _read(self, model: str) -> Restriction:
        path = self._folder / f"{model}{SUFFIX}"
        try:
            callers = json_object(path.read_bytes())["callers"]
            if not isinstance(callers, list) or not all(isinstance(one, str) for one in callers):
                raise ValueError(f"callers: got {str(callers)[:80]!r}, expected a list of names")
            return Restriction(tuple(callers))
        except (OSError, ValueError, KeyError) as error:
            self._report(f"{path}: {safe_text(str(error), 200)}; only callers that manage the model may use it")
            return UNREADABLE

    def _report(self, text: str) -> None:
        """Logs what is wrong, once."""
        if text not in self._reported:
            logger.error("%s", text)
        self._reported.add(text)
