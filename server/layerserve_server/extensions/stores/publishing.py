"""Publishing to a store, which can't rename folders: a version's manifest is written last, and makes it complete."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from layerserve.registries.mlflow_address import is_mlflow

from layerserve_server.errors import VersionConflictError
from layerserve_server.extensions.object_stores.addresses import EXCLUSIVE, last_part, scheme_of
from layerserve_server.extensions.object_stores.objects import Store, StoreError
from layerserve_server.extensions.stores.listing import CLAIM, RemoteVersion, arrange
from layerserve_server.repository.layout import MANIFEST, SUFFIXES
from layerserve_server.repository.publishing import check_expected, host_name

#: Number of version numbers that are tried, if other servers publish at the same time.
_TRIES = 100


def check(address: str) -> None:
    """Raises StoreError if nothing can be published to an address."""
    if Path(last_part(address)).suffix in SUFFIXES:
        raise StoreError("unsupported", f"{address} is a single file: to publish versions, serve the folder above")
    if is_mlflow(address):
        raise StoreError("unsupported", f"{address} is read only: layerserve push publishes to MLflow")
    if scheme_of(address) not in EXCLUSIVE:
        raise StoreError(
            "unsupported",
            f"{scheme_of(address)}:// can't create an object only if it doesn't exist, which publishing needs",
        )


def upload(store: Store, name: str, folder: Path, above: int, expected: int = 0) -> RemoteVersion:
    """Writes a version's folder, with its manifest, into the store, with the first free number above `above`.

    Raises StoreError, and VersionConflictError if the model has a version above `expected`, or another publisher has
    begun one (0: it may), or the model never had `expected`; then the store has no new version.
    """
    if expected:
        newest = max((number for _, number in arrange(store.objects(name), "").versions), default=0)
        above = max(above, newest)
        check_expected(name, expected, newest, above)
    claim = f"{host_name()} {os.getpid()} {secrets.token_hex(16)}"
    manifest = (folder / MANIFEST).read_text("utf-8")
    files = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST
    )
    for version in range(above + 1, above + 1 + _TRIES):
        place = f"{name}/{version}"
        if not _claimed(store, place, claim):
            if expected:
                raise VersionConflictError(name, expected, version)
            continue
        try:
            for file in files:
                store.upload(folder / file, f"{place}/{file}")
            if store.read(f"{place}/{CLAIM}", 1024) != claim:
                # In a store that ignores the condition another server has taken the number.
                if expected:
                    raise VersionConflictError(name, expected, version)
                continue
            store.write(f"{place}/{MANIFEST}", manifest)
        except BaseException:
            delete(store, place, [f"{place}/{file}" for file in (MANIFEST, *files)])
            raise
        with suppress(OSError):
            store.delete(f"{place}/{CLAIM}")
        # With the files of the model that belong to each version, as the next listing has it.
        return arrange(store.objects(name), "").versions[name, version]
    raise StoreError("exists", f"model '{name}': {_TRIES} versions above {above} are being published by others")


def _claimed(store: Store, place: str, claim: str) -> bool:
    """Takes a version number for this publisher. Returns whether it was free."""
    if store.objects(place):
        return False
    try:
        store.create(f"{place}/{CLAIM}", claim)
    except StoreError as error:
        if error.kind == "exists":
            return False
        raise
    if [one for one in store.objects(place) if not one.path.endswith(f"/{CLAIM}")]:
        # Written meanwhile without a claim.
        store.delete(f"{place}/{CLAIM}")
        return False
    return True


def delete(store: Store, place: str, paths: Sequence[str]) -> None:
    """Deletes objects as far as possible, and the claim of their version last: until then it isn't complete."""
    for path in (*paths, f"{place}/{CLAIM}"):
        with suppress(OSError):
            store.delete(path)
