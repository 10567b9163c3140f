"""Which versions are in the folder of copies, and room for others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from layerserve_server.extensions.object_stores.objects import StoreError
from layerserve_server.extensions.stores.cache import Cache
from layerserve_server.extensions.stores.listing import Key, RemoteVersion
from layerserve_server.repository.layout import FoundVersion

logger = logging.getLogger(__name__)

#: Part of the filesystem that fetching leaves free, in bytes.
RESERVE_BYTES = 64 << 20


class Copies:
    """The copies, by version. Not thread-safe: its methods are called with the mirror's lock held."""

    def __init__(self, cache: Cache, max_bytes: int, changed: Callable[[int], None]) -> None:
        """`max_bytes` limits their size; 0 is no limit but the filesystem's. `changed` is called with a new size."""
        self._cache = cache
        self._max_bytes = max_bytes
        self._changed = changed
        #: Identities and sizes.
        self.identities: dict[Key, str] = {}
        self._sizes: dict[Key, int] = {}
        #: Versions in memory; None before that is known.
        self.in_use: frozenset[Key] | None = None

    def __contains__(self, key: Key) -> bool:
        # A copy that someone has removed is fetched again.
        return key in self.identities and self._cache.place(key).is_dir()

    @property
    def bytes(self) -> int:
        """Size of all copies, in bytes."""
        return sum(self._sizes.values())

    def open(self, listed: Mapping[Key, RemoteVersion]) -> None:
        """Finds the copies that an earlier server has left, and removes those that have changed since.

        `listed` are the versions that it knew.
        """
        self._cache.clean()
        for key, identity in self._cache.kept().items():
            files, one = self._cache.files(key), listed.get(key)
            if (
                one is not None
                and one.identity == identity
                and files != {name: of.size for name, of in one.files.items()}
            ):
                logger.error("the copy of model '%s' version %s has changed, and is fetched again", *key)
                self._cache.remove(key)
                continue
            self.identities[key], self._sizes[key] = identity, sum(files.values())
        self._changed(self.bytes)

    def use(self, keys: Iterable[Key]) -> None:
        """Sets which versions are in memory: their copies stay."""
        in_use = frozenset(keys)
        if in_use != self.in_use:
            self._cache.use(in_use.union(self.in_use or ()))
        self.in_use = in_use

    def put(self, one: RemoteVersion, folder: Path) -> None:
        """Moves a folder with a version's files to its place. Raises OSError."""
        self._cache.put(one.key, folder, one.identity)
        self.identities[one.key] = one.identity
        self._sizes[one.key] = one.size
        self._changed(self.bytes)

    def remove(self, key: Key) -> None:
        """Removes a version's copy, if there is one."""
        self._cache.remove(key)
        self.identities.pop(key, None)
        if self._sizes.pop(key, None) is not None:
            self._changed(self.bytes)

    def make_room(self, one: RemoteVersion, arriving: Collection[RemoteVersion]) -> None:
        """Removes copies that aren't in use, those used longest ago first, until a version fits.

        `arriving` are the versions that are being fetched, and are to fit, too. Raises StoreError.
        """
        limit = f"expected up to {self._max_bytes} (--cache-bytes)"
        if self._max_bytes and one.size > self._max_bytes:
            raise StoreError("refused", f"the version has {one.size} bytes, {limit}")
        protected = {one.key, *(other.key for other in arriving), *(self.in_use or ())}
        # Before the first scan nothing is known to be unused.
        removable = self.identities.keys() - protected if self.in_use is not None else set()
        unused = sorted(removable, key=self._cache.last_use)
        while self._lacks(one, arriving):
            if not unused:
                free = self._cache.free_bytes()
                raise StoreError(
                    "full",
                    f"the version's {one.size} bytes don't fit: copies in use have {self.bytes} bytes, {limit}"
                    if self._max_bytes and free > one.size + RESERVE_BYTES
                    else f"the version has {one.size} bytes, and the state folder's filesystem {free} free",
                )
            key = unused.pop(0)
            logger.info("removed the copy of model '%s' version %s, to make room", *key)
            self.remove(key)

    def _lacks(self, one: RemoteVersion, arriving: Iterable[RemoteVersion]) -> bool:
        expected = {other.key: other.size for other in arriving} | {one.key: one.size}
        # An earlier copy of the version is replaced.
        total = sum(({**self._sizes, one.key: 0}).values()) + sum(expected.values())
        if self._max_bytes and total > self._max_bytes:
            return True
        return self._cache.free_bytes() < one.size + RESERVE_BYTES


def absent_versions(
    versions: Mapping[Key, RemoteVersion], problems: Mapping[Key, str], cache: Cache, delays: Mapping[Key, str] = {}
) -> list[FoundVersion]:
    """Returns the versions of a store, each as one that isn't in the folder.

    `problems` are why some can't be fetched, `delays` why others couldn't be so far.
    """
    return [
        FoundVersion(
            name=one.name,
            version=one.version,
            path=cache.place(key),
            # As long as nothing changes it is the same.
            fingerprint=(0, 0, one.size, int(one.identity[:15], 16), 0),
            published=True,
            problem=one.problem or problems.get(key, ""),
            absent=True,
            delay=delays.get(key, ""),
        )
        for key, one in versions.items()
    ]
