"""Publishing to a store, which can't rename folders: a version's manifest is written last, and makes it complete."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from layerserve_server.addresses import EXCLUSIVE, last_part, scheme_of
from layerserve_server.disk import sha256
from layerserve_server.remote.cache import Cache
from layerserve_server.remote.listing import CLAIM, RemoteVersion, arrange
from layerserve_server.remote.objects import Store, StoreError
from layerserve_server.repository.layout import FIRST_CHOICES, LABELS, MANIFEST, SUFFIXES
from layerserve_server.repository.publishing import MAX_LABELS_BYTES, host_name, link_file

#: Number of version numbers that are tried, if other servers publish at the same time.
_TRIES = 100

#: Held while a label is written, since the object is read, changed and replaced as a whole.
_labelling = threading.Lock()


def check(address: str) -> None:
    """Raises StoreError if nothing can be published to an address."""
    if Path(last_part(address)).suffix in SUFFIXES:
        raise StoreError("unsupported", f"{address} is a single file: to publish versions, serve the folder above")
    if scheme_of(address) not in EXCLUSIVE:
        raise StoreError(
            "unsupported",
            f"{scheme_of(address)}:// can't create an object only if it doesn't exist, which publishing needs",
        )


def publish(
    store: Store, cache: Cache, name: str, file: Path, facts: Mapping[str, Any], above: int
) -> tuple[RemoteVersion, Path]:
    """Writes a model file into the store as the next version above `above`.

    Returns it, and a folder with a copy of its files. Raises OSError, and then the store has no new version.
    """
    folder = cache.unfinished()
    try:
        target = folder / (FIRST_CHOICES[0] if file.suffix == ".keras" else "model" + file.suffix)
        link_file(file, target)
        manifest = {**facts, "file": target.name, "bytes": target.stat().st_size, "sha256": sha256(target)}
        text = json.dumps(manifest, indent=1)
        (folder / MANIFEST).write_text(text, "utf-8")
        return _upload(store, name, target, text, above), folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _upload(store: Store, name: str, file: Path, manifest: str, above: int) -> RemoteVersion:
    claim = f"{host_name()} {os.getpid()} {secrets.token_hex(16)}"
    for version in range(above + 1, above + 1 + _TRIES):
        place = f"{name}/{version}"
        if not _claimed(store, place, claim):
            continue
        written = []
        try:
            store.upload(file, f"{place}/{file.name}")
            written.append(f"{place}/{file.name}")
            if store.read(f"{place}/{CLAIM}", 1024) != claim:
                # In a store that ignores the condition another server has taken the number.
                continue
            written.append(f"{place}/{MANIFEST}")
            store.write(f"{place}/{MANIFEST}", manifest)
        except BaseException:
            for path in (*reversed(written), f"{place}/{file.name}", f"{place}/{CLAIM}"):
                with suppress(OSError):
                    store.delete(path)
            raise
        with suppress(OSError):
            store.delete(f"{place}/{CLAIM}")
        return arrange(store.objects(place), "").versions[name, version]
    raise StoreError("exists", f"model '{name}': {_TRIES} versions above {above} are being published by others")


def _claimed(store: Store, place: str, claim: str) -> bool:
    """Takes a version number for this publisher. Returns whether it was free."""
    try:
        store.create(f"{place}/{CLAIM}", claim)
    except StoreError as error:
        if error.kind == "exists":
            return False
        raise
    if [one for one in store.objects(place) if not one.path.endswith(f"/{CLAIM}")]:
        # A version without a claim, written by hand or published to the end.
        store.delete(f"{place}/{CLAIM}")
        return False
    return True


def write_label(store: Store, name: str, label: str, version: int) -> tuple[str, str]:
    """Sets a label to a version. Returns the path and text of the object with all labels. Raises OSError."""
    path = f"{name}/{LABELS}"
    with _labelling:
        try:
            labels = json.loads(store.read(path, MAX_LABELS_BYTES))
        except StoreError as error:
            if error.kind not in ("missing", "damaged"):
                raise
            labels = {}
        except (ValueError, RecursionError):
            labels = {}
        if not isinstance(labels, dict):
            labels = {}
        text = json.dumps({**labels, label: version}, indent=1)
        store.write(path, text)
    return path, text
