"""Uploads of versions by calls: their files are received aside and tested, and then published in one step."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from layerserve_server.errors import ServerError
from layerserve_server.repository.changes import Change, Changes
from layerserve_server.repository.differences import differences
from layerserve_server.repository.management import check_label
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.staging import DeclaredFile, Staging, unwritable


class Uploads:
    """Takes uploads. `who` is the name of the caller, for the audit log."""

    def __init__(self, repository: Repository, changes: Changes, *, max_bytes: int) -> None:
        """`max_bytes` is the maximum size of an upload."""
        self._repository = repository
        self._changes = changes
        self._max_bytes = max_bytes
        #: One version at a time is loaded to test it.
        self._testing = threading.Lock()

    def stage(self, name: str, files: Sequence[DeclaredFile], label: str, who: str) -> Staging:
        """Begins an upload. Raises as `Staging` does, and InvalidRequestError for a label that can't be one."""
        self._repository.catalogue.describe(name)  # raises before the models have been read
        try:
            self._repository.publisher.check_changeable(name)
            if label:
                check_label(label)
            return Staging(self._repository.folder.root, name, files, self._max_bytes)
        except ServerError as error:
            self._changes.note_refused(who, "upload", name, error)
            raise

    def publish(self, staging: Staging, label: str, who: str) -> tuple[int, Change]:
        """Tests a version that was received, and publishes it. Returns its number.

        Raises InvalidRequestError if its files are no version, VersionFailedError if it can't be loaded, and as
        `Changes.make` does.
        """
        name, catalogue, publisher = staging.name, self._repository.catalogue, self._repository.publisher
        try:
            uploaded = staging.settings(type(self._repository.defaults))
            settings = uploaded[0] if uploaded else catalogue.settings(name)
            found = staging.write_manifest({"created": time.time(), "uploaded_by": who})
            with self._testing:
                self._repository.loader.test(found, settings)
        except ServerError as error:
            self._changes.note_refused(who, "upload", name, error)
            raise
        details: dict[str, Any] = {"bytes": staging.bytes, **({"label": label} if label else {})}
        with self._changes.make(who, "upload", name, **details) as record:
            above, content = publisher.highest(name), uploaded[1] if uploaded else None
            before = next((one for one in catalogue.describe(name) if one.default), None)
            try:
                version = publisher.writer.publish_folder(name, staging.folder, above=above, settings=content)
            except OSError as error:
                raise unwritable(error) from error
            record["version"] = version
            publisher.take(name, version, label)
            change = self._changes.made(name)
            after = next((one for one in change.versions if one.version == version), None)
            return version, replace(change, differences=differences(before, after))
