"""The folder of a repository, or a single model file: which versions are there, and which of them are complete."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias

from layerserve_server.repository import layout, publishing
from layerserve_server.repository.layout import Fingerprint, FoundVersion
from layerserve_server.repository.version_source import VersionSource

logger = logging.getLogger(__name__)

#: Number of misplaced models that a scan reports at most.
MAX_REPORTED: Final = 20

#: Versions that were found, by model and number.
Found: TypeAlias = Mapping[tuple[str, int], FoundVersion]


class RepositoryFolder:
    """Finds versions, and remembers what it saw last time. Only one thread at a time may look."""

    def __init__(
        self, path: Path, published: Path, *, source: VersionSource | None = None, settle_seconds: float = 2.0
    ) -> None:
        """`published` is the folder for new versions of a single model file; those of a folder go to the folder itself.

        A file that has changed counts as complete after `settle_seconds`. Raises ValueError if `path` is a file whose
        name isn't that of a model.
        """
        self._path = path
        #: Where versions come from that aren't in the folder yet; None if all are there.
        self.source = source
        self._settle_seconds = settle_seconds
        #: Name of the model if the path is a single file; None for a folder.
        self.file_name = _name_of(path) if path.is_file() else None
        #: Folder of the models' folders.
        self.root = path if self.file_name is None else published
        #: Why the folder couldn't be read the last time; empty if it could.
        self.problem = ""
        #: Whether it has been read: before, all files count as complete, so that a start doesn't wait.
        self._read = False
        self._sighted: dict[tuple[str, int], Fingerprint] = {}
        #: Paths that were reported as misplaced, with what was expected.
        self._misplaced: Mapping[str, str] = {}
        #: What the last look has found in the folder, and the models whose folder it couldn't read, with the reason.
        self._versions: Sequence[FoundVersion] = ()
        self._unread: Mapping[str, str] = {}
        #: Versions that can't be loaded as they are there, with the reason, and those that were reported.
        self._refused: frozenset[tuple[str, str]] = frozenset()
        self._reported: frozenset[tuple[str, str]] = frozenset()

    def find(self, only: str) -> Found | None:
        """Finds all versions, or those of the model `only`.

        Returns None if the disk can't be read: loaded versions stay in use. If the folder of one model can't be read,
        its versions are those of the last look.
        """
        found: list[FoundVersion] = []
        elsewhere = self.source.versions() if self.source is not None else ()
        try:
            if self.file_name is not None:
                found.append(layout.find_single_file(self.file_name, self._path))
            if self.file_name is None or self.root.is_dir():
                contents = layout.find_in_folder(self.root)
                kept = [one for one in self._versions if one.name in contents.unread]
                self._versions = [*contents.versions, *kept]
                found += self._versions
                absent = contents.unread.keys() - {one.name for one in kept}
                self._report_unread({name: why for name, why in contents.unread.items() if name not in absent})
                reasons = {name: f"its folder can't be read: {contents.unread[name]}" for name in absent}
                self._report_misplaced(contents.misplaced | reasons)
                self._report_refused(self._versions)
            # What the folder has comes first. A copy that it lacks may just be replaced.
            found += elsewhere
        except OSError as error:
            if str(error) != self.problem:
                logger.error("can't read the repository; loaded versions stay in use: %s", error)
            self.problem = str(error)
            return None
        self.problem = ""
        return {(one.name, one.version): one for one in reversed(found) if only in ("", one.name)}

    def note(self, found: Found, *, everything: bool) -> None:
        """Remembers versions that were found, to see by the next look whether they still change."""
        fingerprints = {key: one.fingerprint for key, one in found.items()}
        self._sighted = fingerprints if everything else {**self._sighted, **fingerprints}
        self._read = self._read or everything

    def settled(self, one: FoundVersion) -> bool:
        """Whether a file is complete: published by a rename, or unchanged for `settle_seconds` or between two looks.

        At the first look all files count as complete. A file that was incomplete is loaded again when it changes.
        """
        old = time.time() - one.modified > self._settle_seconds
        return not self._read or one.published or old or self._sighted.get((one.name, one.version)) == one.fingerprint

    def of_model(self, name: str) -> Path:
        """Returns the folder of a model, which needn't exist. Raises ValueError if no model can have this name."""
        if not publishing.valid_name(name):
            raise ValueError(f"no model can have the name {name!r}")
        return self.root / name

    def beside(self, name: str) -> Path:
        """Returns the path of the settings of a model that is a single file."""
        return (self.root if self.file_name is None else self._path.parent) / f"{name}.toml"

    def misplaced(self) -> dict[str, str]:
        """Returns what is in the wrong place, by path, with what was expected; at most MAX_REPORTED."""
        return dict(islice(self._misplaced.items(), MAX_REPORTED))

    def sweep(self) -> None:
        """Removes temporary folders that killed publishers have left."""
        for path in publishing.sweep(self.root):
            logger.info("removed an incomplete version", extra={"folder": path.name})

    def _report_misplaced(self, misplaced: Mapping[str, str]) -> None:
        """Logs what is misplaced, once for each path as long as it stays there."""
        for path, expected in islice(misplaced.items(), MAX_REPORTED):
            if path not in self._misplaced:
                logger.warning("'%s' isn't served: %s", path, expected)
        self._misplaced = dict(misplaced)

    def _report_unread(self, unread: Mapping[str, str]) -> None:
        """Logs which folders of models can't be read, once for each as long as it stays so."""
        for name, why in unread.items():
            if name not in self._unread:
                logger.error("the folder of model '%s' can't be read; its versions stay in use: %s", name, why)
        self._unread = unread

    def _report_refused(self, versions: Iterable[FoundVersion]) -> None:
        """Logs what is wrong with versions, once as long as it stays so.

        Files may still be copied into a new folder: what is wrong there counts if the next look finds it again.
        """
        refused = frozenset((one.label, one.problem) for one in versions if one.problem)
        lasting = refused & self._refused if self._read else refused
        for label, problem in sorted(lasting - self._reported)[:MAX_REPORTED]:
            logger.error("%s can't be loaded: %s", label, problem)
        self._refused, self._reported = refused, lasting


def _name_of(path: Path) -> str:
    if path.suffix not in layout.SUFFIXES:
        raise ValueError(f"{path.name} isn't a model file: expected suffix {', '.join(sorted(layout.SUFFIXES))}")
    if not publishing.valid_name(path.stem):
        raise ValueError(f"{path.name}: {layout.NAME_RULE}")
    return path.stem
