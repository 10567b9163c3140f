"""Writing to a store: versions, labels and what calls set, in the store first and then in the folder of copies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from layerserve_server.disk import json_object, sha256
from layerserve_server.errors import ModelGoneError
from layerserve_server.extensions.object_stores.objects import Store, StoreError
from layerserve_server.extensions.stores import publishing
from layerserve_server.extensions.stores.cache import Cache
from layerserve_server.extensions.stores.listing import CLAIM, RemoteVersion, arrange, names
from layerserve_server.extensions.stores.mirror import Mirror
from layerserve_server.repository.control import CONTROL, Control, check_not_deleted, control_in
from layerserve_server.repository.layout import CLASS_LABELS, FIRST_CHOICES, LABELS, MANIFEST
from layerserve_server.repository.model_settings import SETTINGS_FILE
from layerserve_server.repository.publishing import MAX_LABELS_BYTES, UnreadableFileError, link_file


class StoreWriter:
    """Implements `repository.writer.Writer`. Of two servers that change a label in the same moment, one may lose."""

    def __init__(self, address: str, store: Store, cache: Cache, mirror: Mirror) -> None:
        self._address = address
        self._store = store
        self._cache = cache
        self._mirror = mirror

    def check_there(self, name: str, base: int) -> None:
        """See Writer."""
        check_not_deleted(name, base, self._control(name) if self._mirror.versions_of(name) else None)

    def check_writable(self, name: str) -> None:
        """Raises OSError if nothing can be published. Doesn't ask the store."""
        publishing.check(self._address)

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
        folder = self._cache.unfinished()
        try:
            target = folder / (FIRST_CHOICES[0] if file.suffix == ".keras" else "model" + file.suffix)
            link_file(file, target)
            for copied, path in beside.items():
                shutil.copyfile(path, folder / copied)
            manifest = {**facts, "file": target.name, "bytes": target.stat().st_size, "sha256": sha256(target)}
            (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")
            version = self._publish(name, folder, above, expected, None, base)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        file.unlink()
        return version

    def publish_folder(self, name: str, folder: Path, *, above: int, settings: bytes | None) -> int:
        """See Writer."""
        return self._publish(name, folder, above, 0, settings)

    def _publish(
        self, name: str, folder: Path, above: int, expected: int, settings: bytes | None, base: int = 0
    ) -> int:
        publishing.check(self._address)
        if base:
            self.check_there(name, base)
        # First: no version is there for a moment without settings, which may name its callers.
        with self._replaced(f"{name}/{SETTINGS_FILE}", settings):
            one = publishing.upload(self._store, name, folder, max([above, *self._mirror.versions_of(name)]), expected)
            try:
                if base:
                    # A server that deletes the model writes that first: one of the two sees what the other has done.
                    check_not_deleted(name, base, self._control(name))
                # Files of the model's folder that come with each version.
                missing = [file for file in names(one.files) if not (folder / file).exists()]
                if missing:
                    self._store.fetch([one.files[file] for file in missing], missing, folder)
                self._mirror.adopt(one, folder)
            except (OSError, ModelGoneError):
                publishing.delete(self._store, f"{name}/{one.version}", own_paths(one))
                raise
        return one.version

    @contextmanager
    def _replaced(self, path: str, content: bytes | None) -> Iterator[None]:
        """Replaces an object, unless `content` is None, and executes the block. If that fails, it is as before."""
        if content is None:
            yield
            return
        with self._mirror.exchange:
            before = self._text(path)
            self._write(path, content.decode("utf-8"))
        try:
            yield
        except OSError:
            with self._mirror.exchange:
                if before is None:
                    self._store.delete(path)
                    self._mirror.copy_text(path, None)
                else:
                    self._write(path, before)
            raise

    def write_label(self, name: str, label: str, version: int) -> None:
        """See Writer."""
        self._change(f"{name}/{LABELS}", lambda labels: {**labels, label: version})

    def remove_label(self, name: str, label: str) -> None:
        """See Writer."""
        self._change(f"{name}/{LABELS}", lambda labels: {one: labels[one] for one in labels if one != label})

    def write_control(self, name: str, **values: Any) -> None:
        """See Writer."""

        def changed(before: dict[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in {**before, **values}.items() if value is not None}

        self._change(f"{name}/{CONTROL}", changed)

    def withdraw(self, name: str, version: int, path: Path) -> None:
        """See Writer."""
        publishing.check(self._address)
        with self._mirror.exchange:
            one = self._mirror.versions_of(name).get(version)
            if one is not None:
                self._withdraw(one)

    def withdraw_model(self, name: str, highest: int) -> None:
        """See Writer."""
        publishing.check(self._address)
        with self._mirror.exchange:
            # First: what another server publishes after this is withheld, and what it has published before is listed.
            self._replace(f"{name}/{CONTROL}", {"highest": highest, "deleted": highest})
            objects = self._store.objects(name)
            known = {one.key: one for one in self._mirror.versions_of(name).values()}
            for one in {**known, **arrange(objects, "").versions}.values():
                self._withdraw(one)
            for path in [one.path for one in objects if one.path.endswith(CLASS_LABELS)]:
                self._store.delete(path)
            for file in (LABELS, SETTINGS_FILE):
                self._store.delete(f"{name}/{file}")
                self._mirror.copy_text(f"{name}/{file}", None)

    def _withdraw(self, one: RemoteVersion) -> None:
        place = f"{one.name}/{one.version}"
        # With a claim and without a manifest it is no version for any server, however far this gets.
        self._store.write(f"{place}/{CLAIM}", "withdrawn")
        for path in sorted(own_paths(one), key=lambda path: not path.endswith(MANIFEST)):
            self._store.delete(path)
        self._store.delete(f"{place}/{CLAIM}")
        self._mirror.drop(one.key)

    def _control(self, name: str) -> Control:
        """Returns what calls have set for a model. Raises OSError if that can't be read."""
        return control_in(self._read(f"{name}/{CONTROL}"))

    def _change(self, path: str, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
        """Replaces a JSON object. Raises OSError if the former one can't be read: its values would be lost."""
        publishing.check(self._address)
        with self._mirror.exchange:
            self._replace(path, change(self._read(path)))

    def _read(self, path: str) -> dict[str, Any]:
        """Returns a JSON object; empty if there is none. Raises OSError if it can't be read."""
        try:
            text = self._text(path)
            return {} if text is None else json_object(text)
        except ValueError as error:
            raise UnreadableFileError(f"{path}: {error}") from error

    def _text(self, path: str) -> str | None:
        """Returns a small object; None if there is none. Raises OSError if it can't be read."""
        try:
            return self._store.read(path, MAX_LABELS_BYTES)
        except StoreError as error:
            if error.kind == "missing":
                return None
            raise

    def _replace(self, path: str, values: Mapping[str, Any]) -> None:
        self._write(path, json.dumps(values, indent=1))

    def _write(self, path: str, text: str) -> None:
        self._store.write(path, text)
        self._mirror.copy_text(path, text)


def own_paths(one: RemoteVersion) -> list[str]:
    """Returns the paths of a version's objects, without those of the model's folder, which all of its versions have."""
    return [file.path for file in one.files.values() if PurePosixPath(file.path).parent.as_posix() != one.name]
