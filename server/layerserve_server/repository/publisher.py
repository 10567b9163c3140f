"""Publication of versions: what runs, checkpoints and uploads have made becomes the next version of a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from layerserve_server.errors import NotTrainableError, RefusedChangeError, ServerError, VersionFailedError
from layerserve_server.repository import publishing
from layerserve_server.repository.catalogue import Catalogue
from layerserve_server.repository.control import read_control
from layerserve_server.repository.folder import RepositoryFolder
from layerserve_server.repository.loader import Loader
from layerserve_server.repository.memory_limit import NoRoomError
from layerserve_server.repository.version_states import State
from layerserve_server.repository.writer import Writer


class Refresh(Protocol):
    """Scans a model after a change by this server; `new` are the versions that it has added."""

    def __call__(self, name: str, *new: int) -> None: ...


class Publisher:
    """Publishes versions. Thread-safe. What is written takes effect with the scan that follows."""

    def __init__(
        self,
        catalogue: Catalogue,
        folder: RepositoryFolder,
        loader: Loader,
        writer: Writer,
        scan: Callable[[str], None],
        refresh: Refresh,
    ) -> None:
        self._catalogue = catalogue
        self._folder = folder
        self._loader = loader
        #: Writes to the repository.
        self.writer = writer
        self._scan = scan
        self._refresh = refresh
        #: Called after a run has published a version (0: none), with the model, the run, and the error if that failed.
        self.run_published: Callable[[str, str, int, ServerError | None], None] = lambda *_: None

    def publish(
        self,
        name: str,
        file: Path,
        *,
        run: str,
        base_version: int,
        label: str = "",
        expected: int = 0,
        checkpoint: str = "",
    ) -> int:
        """Publishes a file as the next version of a model, loads it, then sets the label. Returns the version number.

        `checkpoint` is the id of the run's checkpoint from which the file was made; empty for the run's result.

        Raises VersionConflictError if the model has a version above `expected` (0: it may), ModelGoneError if it was
        deleted since it had the base version, NotTrainableError if the repository can't be written, and
        VersionFailedError if the new version can't be loaded.
        """
        above = self.highest(name)
        if expected:
            self.check_newest(name, expected)
        facts: dict[str, Any] = {"run": run, "base_version": base_version, "created": time.time()}
        if checkpoint:
            facts["checkpoint"] = checkpoint
        try:
            version = self.writer.publish(
                name,
                file,
                facts,
                above=above,
                expected=expected,
                beside=self._class_labels(name, base_version),
                base=0 if name == self._folder.file_name else base_version,
            )
        except OSError as error:
            raise _unwritable(error) from error
        self.take(name, version, label)
        return version

    def publish_once(
        self,
        name: str,
        file: Path,
        *,
        run: str,
        base_version: int,
        label: str = "",
        expected: int = 0,
        who: str = "",
        checkpoint: str = "",
    ) -> int:
        """Like `publish`, but doesn't repeat steps that were completed before, such as by a server that was killed.

        `who` is the caller, for the audit log, if a call publishes it.
        """
        what = f"{run}/{checkpoint}" if checkpoint else run
        by = f"{what}, called by {who}" if who else what
        version = self.version_of_run(name, run, checkpoint)
        try:
            if not version:
                version = self.publish(
                    name,
                    file,
                    run=run,
                    base_version=base_version,
                    label=label,
                    expected=expected,
                    checkpoint=checkpoint,
                )
            else:
                self._check_loaded(name, version)
                self._set_label(name, label, version)
        except ServerError as error:
            self.run_published(name, by, self.version_of_run(name, run, checkpoint), error)
            raise
        self.run_published(name, by, version, None)
        return version

    def take(self, name: str, version: int, label: str = "") -> None:
        """Loads a version that was written, and sets a label to it: if it can't be loaded, the label stays.

        Raises VersionFailedError, and NotTrainableError if the label can't be written.
        """
        self._refresh(name, version)
        self._check_loaded(name, version)
        self._set_label(name, label, version)

    def _check_loaded(self, name: str, version: int) -> None:
        entry = self._catalogue.find_entry(name, version)
        if entry is not None and entry.state is State.AVAILABLE and not entry.barred:
            # It isn't one of those that stay loaded, such as the newest of a model that is pinned to another version.
            with suppress(NoRoomError):
                self._loader.load(entry, self._catalogue.settings(name))
        if entry is not None and entry.state is State.FAILED:
            raise VersionFailedError(f"published as version {version}, which can't be loaded: {entry.reason}")

    def _set_label(self, name: str, label: str, version: int) -> None:
        if label:
            try:
                self.writer.write_label(name, label, version)
            except OSError as error:
                raise _unwritable(error) from error
            self._refresh(name)

    def _class_labels(self, name: str, version: int) -> Mapping[str, Path]:
        """Returns a version's own files with labels of classes, which a version that is trained from it gets, too."""
        entry, folder = self._catalogue.find_entry(name, version), self._folder.root / name
        if entry is None:
            return {}
        wanted = self._catalogue.settings(name).class_labels.values()
        return {file: path for file, path in entry.found.class_labels if file in wanted and path.parent != folder}

    # What has been published.

    def version_of_run(self, name: str, run: str, checkpoint: str = "") -> int:
        """Returns the version that was published of a run's result, or of its checkpoint; 0 if there is none."""
        with self._catalogue.lock:
            record = self._catalogue.models.get(name)
            found = [entry.found for entry in record.versions.values() if entry.found.published] if record else []
        for one in found:
            try:
                manifest = publishing.read_manifest(one.path.parent)
            except publishing.UnreadableFileError:
                continue
            if (manifest.get("run"), manifest.get("checkpoint", "")) == (run, checkpoint):
                return one.version
        return 0

    def highest(self, name: str) -> int:
        """Returns the highest version number that a model has or had; 0 for none. Raises RefusedChangeError."""
        versions = self._catalogue.versions().get(name, [])
        try:
            return max((*versions, read_control(self._folder.root / name).highest))
        except OSError as error:
            # A number that was given before could be given again.
            raise RefusedChangeError(f"model '{name}': {error.strerror}") from error

    def newest(self, name: str) -> int:
        """Returns the highest number of the versions that a model has; 0 for none."""
        with self._catalogue.lock:
            record = self._catalogue.models.get(name)
            versions = [number for number, entry in record.versions.items() if not entry.leaving] if record else []
        return max(versions, default=0)

    # What could be published.

    def check_newest(self, name: str, expected: int) -> None:
        """Raises VersionConflictError if a model has a version above `expected`, or never had that one."""
        if expected > self.highest(name):
            # Another server may have published it a moment ago.
            self._scan(name)
        publishing.check_expected(name, expected, self.newest(name), self.highest(name))

    def check_publishable(self, name: str, base_version: int) -> None:
        """Raises NotTrainableError if nothing can be published that was trained from a version of the model."""
        try:
            if name != self._folder.file_name:
                self.writer.check_there(name, base_version)
            self.writer.check_writable(name)
        except OSError as error:
            raise _unwritable(error) from error

    def check_changeable(self, name: str) -> None:
        """Raises RefusedChangeError if a store can't be written."""
        if self._folder.source is not None:
            try:
                self.writer.check_writable(name)
            except OSError as error:
                raise RefusedChangeError(f"the repository can't be written: {error.strerror}") from error

    def check_deletable(self, name: str) -> None:
        """Raises RefusedChangeError if the server was started with this model's file, which isn't in a repository."""
        if name == self._folder.file_name:
            raise RefusedChangeError(f"model '{name}': the server was started with its file, so it can't be deleted")


def _unwritable(error: OSError) -> NotTrainableError:
    return NotTrainableError(f"the repository can't be written: {error.strerror}")
