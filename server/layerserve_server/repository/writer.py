"""Writing to a repository: in its folder, or in the store from which it has copies (see `version_source`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from layerserve_server.disk import replace_file, sync
from layerserve_server.folder_owner import UnfinishedFolder
from layerserve_server.repository import layout, publishing
from layerserve_server.repository.control import check_there, write_control
from layerserve_server.repository.model_settings import SETTINGS_FILE


class Writer(Protocol):
    """Writes versions, labels and what calls set. All methods raise OSError if they fail."""

    def check_there(self, name: str, base: int) -> None:
        """Raises ModelGoneError if a model was deleted since it had this version."""

    def check_writable(self, name: str) -> None:
        """Raises OSError if no version of a model can be published."""

    def publish(
        self,
        name: str,
        file: Path,
        facts: Mapping[str, Any],
        *,
        above: int,
        expected: int = 0,
        beside: Mapping[str, Path] = {},
        base: int = 0,
    ) -> int:
        """Moves a model file into the repository as the next version of a model, with a manifest of these facts.

        `beside` are files that are copied into its folder, by name. Returns the version, which is above `above`. Raises
        VersionConflictError if the model has a version above `expected`, or gets one meanwhile; 0 means that it may.
        Raises ModelGoneError if the model was deleted since it had the version `base`; 0 means that it may.
        """

    def publish_folder(self, name: str, folder: Path, *, above: int, settings: bytes | None) -> int:
        """Moves a version's folder, with its manifest, into the repository. Returns the version, above `above`.

        `settings` replace the model's settings file, unless they are None.
        """

    def write_label(self, name: str, label: str, version: int) -> None:
        """Sets a label."""

    def remove_label(self, name: str, label: str) -> None:
        """Removes a label."""

    def write_control(self, name: str, **values: Any) -> None:
        """Sets values of `control`; None removes one."""

    def withdraw(self, name: str, version: int, path: Path) -> None:
        """Removes a version. `path` is its model file."""

    def withdraw_model(self, name: str, highest: int) -> None:
        """Removes a model. `highest`, its highest version number, is kept: it isn't given again, and runs that began
        with the model publish nothing.
        """


class FolderWriter:
    """Writes to a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def check_there(self, name: str, base: int) -> None:
        """See Writer."""
        check_there(self._root, name, base)

    def check_writable(self, name: str) -> None:
        """See Writer."""
        # With a name of its own, as several may check at once.
        UnfinishedFolder(publishing.model_folder(self._root, name)).remove()

    def publish(
        self,
        name: str,
        file: Path,
        facts: Mapping[str, Any],
        *,
        above: int,
        expected: int = 0,
        beside: Mapping[str, Path] = {},
        base: int = 0,
    ) -> int:
        """See Writer."""

        def check() -> None:
            if base:
                check_there(self._root, name, base)

        return publishing.publish(
            self._root, name, file, facts, above=above, expected=expected, beside=beside, check=check
        )

    def publish_folder(self, name: str, folder: Path, *, above: int, settings: bytes | None) -> int:
        """See Writer."""
        target = publishing.model_folder(self._root, name)
        try:
            # First: no version is there for a moment without settings, which may name its callers.
            with _replaced(target / SETTINGS_FILE, settings):
                version = publishing.claim(folder, target, above)
                try:
                    for path in (target, target.parent):
                        sync(path)
                except OSError:
                    publishing.withdraw(self._root, [target / str(version)])
                    raise
        except OSError:
            with suppress(OSError):
                target.rmdir()  # unless there is something in it
            raise
        return version

    def write_label(self, name: str, label: str, version: int) -> None:
        """See Writer."""
        publishing.write_label(publishing.model_folder(self._root, name), label, version)

    def remove_label(self, name: str, label: str) -> None:
        """See Writer."""
        publishing.remove_label(publishing.model_folder(self._root, name), label)

    def write_control(self, name: str, **values: Any) -> None:
        """See Writer."""
        write_control(publishing.model_folder(self._root, name), **values)

    def withdraw(self, name: str, version: int, path: Path) -> None:
        """See Writer."""
        folder = self._root / name / str(version)
        # A model file in the root has what belongs to it beside it.
        flat = [path, *(path.with_name(f"{path.stem}.{beside}") for beside in layout.BESIDE)]
        publishing.withdraw(self._root, [folder] if folder.is_dir() else flat)

    def withdraw_model(self, name: str, highest: int) -> None:
        """See Writer."""
        models = [self._root / f"{name}{suffix}" for suffix in layout.SUFFIXES]
        others = [self._root / f"{name}.{beside}" for beside in ("toml", *layout.BESIDE)]
        folder = publishing.model_folder(self._root, name)
        # Who waits to publish finds what is written here.
        with publishing.locked_folder(folder):
            highest = max([highest, *publishing.version_numbers(folder)])
            # Settings not before the versions, whose callers they may name.
            publishing.withdraw(self._root, [*models, folder, *others])
            write_control(publishing.model_folder(self._root, name), highest=highest or None, deleted=highest or None)


@contextmanager
def _replaced(file: Path, content: bytes | None) -> Iterator[None]:
    """Replaces a file, unless `content` is None, and then executes the block. If that fails, the file is as before."""
    if content is None:
        yield
        return
    before = file.read_bytes() if file.exists() else None
    replace_file(file, content, flushed=True)
    try:
        yield
    except OSError:
        if before is None:
            file.unlink()
        else:
            replace_file(file, before, flushed=True)
        raise
