"""Keeps copies of a store's versions: lists it again and again, and fetches the versions that are wanted."""

from __future__ import annotations

import json
import logging
import random
import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from layerserve_server.addresses import last_part
from layerserve_server.errors import UnavailableError, VersionFailedError
from layerserve_server.remote.cache import Cache
from layerserve_server.remote.listing import Key, Listing, RemoteVersion, arrange, names
from layerserve_server.remote.objects import Store, StoreError
from layerserve_server.repository.layout import MANIFEST, FoundVersion
from layerserve_server.repository.publishing import MAX_LABELS_BYTES

logger = logging.getLogger(__name__)

#: Number of versions that are fetched at the same time.
FETCHES = 4
#: Time between two listings in which a version without a manifest may not change, to be complete, in seconds.
SETTLE_SECONDS = 2.0
#: Time that a request waits for a version to be fetched, in seconds.
WAIT_SECONDS = 60.0
#: Time between two attempts after a failure, in seconds: at first, and at most. It doubles with each failure.
RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 60.0
#: The same if what the store has is wrong: then the whole version is transferred for nothing.
WRONG_SECONDS, MAX_WRONG_SECONDS = 15.0, 3600.0
#: Reasons that aren't the version's own, and may be over for the next request.
_PASSING = ("away", "full")
#: Time between two looks for versions that other processes wait for, in seconds.
TICK_SECONDS = 0.2
#: Part of the filesystem that fetching leaves free, in bytes.
RESERVE_BYTES = 64 << 20


class MirrorObserver(Protocol):
    """Receives events of a mirror, for metrics."""

    def store_listed(self, answered: bool) -> None:
        """Called after each listing of the store: whether it answered."""

    def version_fetched(self, model: str, size: int, seconds: float) -> None:
        """Called after a version of `size` bytes was fetched, which took `seconds`."""

    def fetch_failed(self, model: str) -> None:
        """Called after a version couldn't be fetched."""

    def cache_changed(self, size: int) -> None:
        """Called when the size of all copies has changed, in bytes."""


@dataclass(slots=True)
class _Failure:
    """Why a version couldn't be fetched, and when it is tried again (monotonic time, in seconds)."""

    identity: str
    count: int
    again: float
    error: StoreError


class Mirror:
    """Copies of a store's versions in a folder. Implements `repository.origin.Origin`. Thread-safe.

    One thread lists the store, and others fetch: neither blocks the repository. A store that doesn't answer changes
    nothing about the copies.
    """

    def __init__(
        self,
        address: str,
        store: Store,
        cache: Cache,
        observer: MirrorObserver,
        *,
        poll_seconds: float = 30.0,
        settle_seconds: float = SETTLE_SECONDS,
        max_bytes: int = 0,
    ) -> None:
        """`max_bytes` limits the size of the copies; 0 is no limit but the filesystem's.

        A version without a manifest is complete if it didn't change for `settle_seconds` between two listings.
        """
        self._address = address
        self._store = store
        self._cache = cache
        self._observer = observer
        self._poll_seconds = poll_seconds
        self._settle_seconds = settle_seconds
        self._max_bytes = max_bytes
        self._lock = threading.RLock()
        #: Held during a listing, and while something but a version is written to the store: a listing from before that
        #: would undo the change in the folder.
        self.exchange = threading.Lock()
        #: Complete versions of the last listing, and what is kept although it wasn't listed once.
        self._listing = Listing()
        #: What the listing before had: identity of each version, and since when it has been the same.
        self._seen: dict[Key, tuple[str, float]] = {}
        self._missed: set[Key] = set()
        self._kept: dict[Key, str] = {}
        self._sizes: dict[Key, int] = {}
        self._of_models: dict[str, str] = {}
        self._in_use: frozenset[Key] | None = None
        self._fetching: dict[Key, Future[None]] = {}
        self._failures: dict[Key, _Failure] = {}
        self._away = 0
        self._away_text = ""
        self._unsettled = False
        self._absent: list[FoundVersion] = []
        self._pool = ThreadPoolExecutor(FETCHES, thread_name_prefix="fetch")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="store watcher", daemon=True)

    # Life.

    def open(self) -> None:
        """Lists the store for the first time, or falls back to the copies of an earlier server.

        Raises OSError if the store doesn't answer and there are no copies, or another server changes the folder.
        """
        if not self._cache.lock():
            raise OSError(f"{self._cache.folder} is used by another server: give each its own --state folder")
        self._cache.clean()
        known = self._cache.read_listing()
        with self._lock:
            self._kept = self._cache.kept()
            self._sizes = {key: self._cache.size(key) for key in self._kept}
            if known is not None:
                self._listing = known[0]
            self._note_change()
        self._observer.cache_changed(sum(self._sizes.values()))
        if self.refresh():
            if self._unsettled and not self._stopping.wait(self._settle_seconds):
                self.refresh()
        elif known is None:
            raise OSError(f"can't read the models: {self._away_text}")

    def start(self) -> None:
        """Starts the thread that lists the store."""
        self._thread.start()

    def stop(self) -> None:
        """Ends listing and fetching."""
        self._stopping.set()
        self._store.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._thread.is_alive():
            self._thread.join()
        self._cache.unlock()

    def fetching(self) -> dict[Key, Future[None]]:
        """Returns the versions that are being fetched."""
        with self._lock:
            return dict(self._fetching)

    def _watch(self) -> None:
        due = time.monotonic() + self._pause()
        while not self._stopping.wait(TICK_SECONDS):
            try:
                for key in self._cache.asked():
                    self.want(*key)
                self._retry()
                if time.monotonic() >= due:
                    self.refresh()
                    due = time.monotonic() + self._pause()
            except Exception:
                logger.exception("listing %s failed; trying again", self._address)
                due = time.monotonic() + self._pause()

    def _retry(self) -> None:
        """Fetches versions again whose next attempt is due."""
        with self._lock:
            for key in list(self._failures):
                self._begin(key)

    def _pause(self) -> float:
        """Time until the next listing, in seconds."""
        if self._away:
            return _delay(self._away)
        return min(self._poll_seconds, self._settle_seconds) if self._unsettled else self._poll_seconds

    # Listing.

    def refresh(self) -> bool:
        """Lists the store once. Returns whether it answered."""
        with self.exchange:
            return self._refresh()

    def _refresh(self) -> bool:
        try:
            found = arrange(self._store.objects(), last_part(self._address))
            texts = self._read_of_models(found)
        except OSError as error:
            if not self._stopping.is_set():
                self._note_away(error)
            return False
        if self._away:
            logger.info("the store answers again", extra={"store": self._address})
        self._away, self._away_text = 0, ""
        self._observer.store_listed(True)
        with self._lock:
            self._accept(found)
            self._copy_of_models(found, texts)
            self._cache.write_listing(self._listing, self._problems())
            changed = [
                key
                for key, identity in self._kept.items()
                if key in self._listing.versions and self._listing.versions[key].identity != identity
            ]
            for key in changed:
                self._begin(key)
        return True

    def _note_away(self, error: OSError) -> None:
        text = error.strerror or str(error)
        self._away += 1
        self._observer.store_listed(False)
        if text != self._away_text:
            logger.error("can't list the store; what is loaded serves on, and is tried again: %s", text)
        self._away_text = text

    def _accept(self, found: Listing) -> None:
        """Takes over a listing: of new and changed versions only those that are complete."""
        now = time.monotonic()
        before, self._seen = self._seen, {}
        versions: dict[Key, RemoteVersion] = {}
        self._unsettled = False
        for key, one in found.versions.items():
            identity = one.identity
            since = before[key][1] if before.get(key, ("", 0.0))[0] == identity else now
            self._seen[key] = identity, since
            settled = not one.claimed and now - since >= self._settle_seconds
            if one.published or settled or one.problem or self._kept.get(key) == identity:
                versions[key] = one
                continue
            self._unsettled = self._unsettled or not one.claimed
            if key in self._listing.versions:
                versions[key] = self._listing.versions[key]
        gone = self._listing.versions.keys() - found.versions.keys()
        for key in gone:
            # A listing may be incomplete; two in a row are believed.
            if key in self._missed:
                self._forget(key)
            else:
                versions[key] = self._listing.versions[key]
        self._missed = set(gone)
        self._unsettled = self._unsettled or any(key in versions for key in gone)
        for key in self._kept.keys() - versions.keys():
            # Of an earlier server, whose listing is lost.
            self._forget(key)
        self._listing = Listing(versions, found.of_models)
        self._note_change()

    def _forget(self, key: Key) -> None:
        logger.info("model '%s' version %s is no longer in the store", *key)
        self._cache.remove(key)
        self._kept.pop(key, None)
        self._sizes.pop(key, None)
        self._failures.pop(key, None)
        self._observer.cache_changed(sum(self._sizes.values()))

    def _read_of_models(self, found: Listing) -> dict[str, str]:
        """Reads the small objects of models that have changed."""
        texts = {}
        for path, one in found.of_models.items():
            if self._of_models.get(path) == one.identity:
                continue
            try:
                texts[path] = self._store.read(one.path, MAX_LABELS_BYTES)
            except StoreError as error:
                if error.kind == "away":
                    raise
                logger.error("%s", error.strerror)
        return texts

    def _copy_of_models(self, found: Listing, texts: Mapping[str, str]) -> None:
        for path, text in texts.items():
            self._cache.write_of_model(path, text)
            self._of_models[path] = found.of_models[path].identity
        for path in self._of_models.keys() - found.of_models.keys():
            self._cache.remove_of_model(path)
            del self._of_models[path]

    # Versions for the repository.

    def absent(self) -> list[FoundVersion]:
        """Returns the versions of the store that aren't in the folder."""
        return self._absent

    def _note_change(self) -> None:
        self._absent = absent_versions(self._listing.versions, self._kept, self._problems(), self._cache)

    def _problems(self) -> dict[Key, str]:
        return {key: str(failure.error) for key, failure in self._failures.items() if failure.error.kind != "away"}

    def note_use(self, versions: Iterable[tuple[str, int]]) -> None:
        """Called with the versions in memory, whose files are to stay."""
        in_use = frozenset(versions)
        if in_use != self._in_use:
            self._cache.use(in_use.union(self._in_use or ()))
        self._in_use = in_use

    def want(self, name: str, version: int) -> None:
        """Has a version fetched, unless that failed a short time ago."""
        with self._lock:
            if not self._stopping.is_set() and (name, version) not in self._kept:
                self._begin((name, version))

    def fetch(self, name: str, version: int) -> None:
        """Waits until a version is in the folder. Raises as `Origin.fetch` does."""
        key = name, version
        with self._lock:
            if key in self._kept:
                return
            failure = self._failures.get(key)
            self._begin(key, at_once=failure is not None and failure.error.kind in _PASSING)
            task = self._fetching.get(key)
        label = f"model '{name}' version {version}"
        try:
            if task is not None:
                task.result(WAIT_SECONDS)
                return
        except FutureTimeoutError:
            raise UnavailableError(f"{label} is being fetched from the store; try again in a moment") from None
        except StoreError as error:
            if error.kind in _PASSING:
                raise UnavailableError(f"{label} can't be fetched: {error.strerror}") from error
            raise VersionFailedError(f"{label} can't be fetched: {error.strerror}") from error
        if failure is not None:
            raise VersionFailedError(f"{label} can't be fetched: {failure.error}")
        raise UnavailableError(f"{label} isn't in the store any more")

    # Fetching.

    def _begin(self, key: Key, *, at_once: bool = False) -> None:
        """Starts to fetch a version, unless that is in progress, or failed and isn't due."""
        one = self._listing.versions.get(key)
        if one is None or key in self._fetching or self._stopping.is_set():
            return
        failure = self._failures.get(key)
        same = failure is not None and failure.identity == one.identity
        if failure is not None and same and time.monotonic() < failure.again and not at_once:
            return
        self._fetching[key] = self._pool.submit(self._fetch, one)

    def _fetch(self, one: RemoteVersion) -> None:
        """Fetches a version, in a thread of the pool. Raises StoreError, which is recorded, too."""
        began = time.monotonic()
        try:
            self._transfer(one)
        except Exception as error:
            known = error if isinstance(error, StoreError) else StoreError("refused", _text(error))
            self._note_failure(one, known)
            raise known from error
        finally:
            with self._lock:
                self._fetching.pop(one.key, None)
        seconds = time.monotonic() - began
        self._observer.version_fetched(one.name, one.size, seconds)
        logger.info(
            "model '%s' version %s was fetched",
            one.name,
            one.version,
            extra={"bytes": one.size, "seconds": round(seconds, 3)},
        )

    def _note_failure(self, one: RemoteVersion, error: StoreError) -> None:
        if self._stopping.is_set():
            return
        with self._lock:
            before = self._failures.get(one.key)
            count = before.count + 1 if before is not None and before.identity == one.identity else 1
            pause = _delay(count) if error.kind in _PASSING else _delay(count, WRONG_SECONDS, MAX_WRONG_SECONDS)
            self._failures[one.key] = _Failure(one.identity, count, time.monotonic() + pause, error)
            self._note_change()
            self._cache.write_listing(self._listing, self._problems())
        if before is None or str(before.error) != str(error):
            logger.error("model '%s' version %s can't be fetched: %s", one.name, one.version, error)
        self._observer.fetch_failed(one.name)

    def _transfer(self, one: RemoteVersion) -> None:
        if one.problem:
            raise StoreError("refused", one.problem)
        self._make_room(one)
        folder = self._cache.unfinished()
        try:
            files = names(one.files)
            digests = self._store.fetch([one.files[name] for name in files], files, folder)
            check_manifest(folder, digests)
            with self._lock:
                self._cache.put(one.key, folder, one.identity)
                self._note_kept(one)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _note_kept(self, one: RemoteVersion) -> None:
        self._kept[one.key] = one.identity
        self._sizes[one.key] = one.size
        self._failures.pop(one.key, None)
        self._note_change()
        self._observer.cache_changed(sum(self._sizes.values()))

    def _make_room(self, one: RemoteVersion) -> None:
        """Removes copies that aren't in use, those used longest ago first, until a version fits."""
        limit = f"expected up to {self._max_bytes} (--cache-bytes)"
        if self._max_bytes and one.size > self._max_bytes:
            raise StoreError("refused", f"the version has {one.size} bytes, {limit}")
        with self._lock:
            protected = {one.key, *self._fetching, *(self._in_use or ())}
            # Before the first scan nothing is known to be unused.
            unused = sorted(self._kept.keys() - protected, key=self._cache.last_use) if self._in_use is not None else []
            while self._lacks(one):
                if not unused:
                    held = sum(self._sizes.values())
                    free = self._cache.free_bytes()
                    raise StoreError(
                        "full",
                        f"the version's {one.size} bytes don't fit: copies in use have {held} bytes, {limit}"
                        if self._max_bytes and free > one.size + RESERVE_BYTES
                        else f"the version has {one.size} bytes, and the state folder's filesystem {free} free",
                    )
                key = unused.pop(0)
                logger.info("removed the copy of model '%s' version %s, to make room", *key)
                self._cache.remove(key)
                self._kept.pop(key, None)
                self._sizes.pop(key, None)
            self._note_change()

    def _lacks(self, one: RemoteVersion) -> bool:
        """Whether a version doesn't fit besides the copies, and what is being fetched."""
        arriving = [self._listing.versions[key].size for key in self._fetching if key in self._listing.versions]
        others = sum(self._sizes.values()) - self._sizes.get(one.key, 0) + sum(arriving)
        if one.key not in self._fetching:
            others += one.size
        if self._max_bytes and others > self._max_bytes:
            return True
        return self._cache.free_bytes() < one.size + RESERVE_BYTES

    # For the writer.

    def versions(self, name: str) -> dict[int, RemoteVersion]:
        """Returns the known versions of a model, by number."""
        with self._lock:
            return {version: one for (model, version), one in self._listing.versions.items() if model == name}

    def adopt(self, one: RemoteVersion, folder: Path) -> None:
        """Takes over a folder as the copy of a version that was written to the store."""
        with self._lock:
            self._cache.put(one.key, folder, one.identity)
            self._listing.versions[one.key] = one
            self._seen[one.key] = one.identity, time.monotonic()
            self._note_kept(one)
            self._cache.write_listing(self._listing, self._problems())

    def drop(self, key: Key) -> None:
        """Forgets a version that was deleted from the store."""
        with self._lock:
            self._listing.versions.pop(key, None)
            self._forget(key)
            self._note_change()
            self._cache.write_listing(self._listing, self._problems())

    def copy_text(self, path: str, text: str | None) -> None:
        """Replaces the copy of a small object beside the versions that was written to the store, or removes it."""
        with self._lock:
            if text is None:
                self._cache.remove_of_model(path)
            else:
                self._cache.write_of_model(path, text)
            # Its identity isn't known: the next listing has it read again.
            self._of_models[path] = ""


def absent_versions(
    versions: Mapping[Key, RemoteVersion], kept: Iterable[Key], problems: Mapping[Key, str], cache: Cache
) -> list[FoundVersion]:
    """Returns the versions of a store that aren't in the folder, as the repository has them."""
    there = set(kept)
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
        )
        for key, one in versions.items()
        if key not in there
    ]


def check_manifest(folder: Path, digests: Mapping[str, str]) -> None:
    """Compares fetched files with their manifest, if there is one. Raises StoreError."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return
    except (ValueError, RecursionError):
        raise StoreError("damaged", f"{MANIFEST} isn't JSON") from None
    name = manifest.get("file") if isinstance(manifest, dict) else None
    if not isinstance(name, str) or "sha256" not in manifest:
        return
    if name not in digests:
        raise StoreError("damaged", f"the version has no {name!r}, which its manifest names")
    size = (folder / name).stat().st_size
    if manifest.get("bytes", size) != size:
        raise StoreError("damaged", f"{name}: got {size} bytes, expected {manifest['bytes']} as in its manifest")
    if digests[name] != manifest["sha256"]:
        raise StoreError("damaged", f"{name}: its sha256 differs from its manifest's")


def _delay(failures: int, first: float = RETRY_SECONDS, most: float = MAX_RETRY_SECONDS) -> float:
    """Time until the next attempt, in seconds; not the same for all servers."""
    return min(first * 2.0 ** min(failures - 1, 10), most) * random.uniform(0.75, 1.25)


def _text(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
