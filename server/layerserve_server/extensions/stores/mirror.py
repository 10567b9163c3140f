"""Keeps copies of a store's versions: lists it again and again, and fetches the versions that are wanted."""

from __future__ import annotations

import errno
import logging
import math
import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures import wait as wait_for
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from layerserve_server.errors import UnavailableError, VersionFailedError, error_text
from layerserve_server.extensions.object_stores.addresses import last_part
from layerserve_server.extensions.object_stores.objects import Kind, Store, StoredObject, StoreError
from layerserve_server.extensions.stores.cache import Cache
from layerserve_server.extensions.stores.copies import Copies, absent_versions
from layerserve_server.extensions.stores.failures import PASSING, Failures, delay
from layerserve_server.extensions.stores.listing import Key, Listing, RemoteVersion, arrange, names
from layerserve_server.extensions.stores.manifest import check_manifest
from layerserve_server.repository.layout import FoundVersion
from layerserve_server.repository.publishing import MAX_LABELS_BYTES

if TYPE_CHECKING:
    from layerserve_server.extensions.stores.metrics import StoreMetrics

logger = logging.getLogger(__name__)

#: Number of versions that are fetched at the same time.
FETCHES = 4
#: Number of small objects of models that are read at the same time.
READS = 4
#: Time without one of them after which a listing goes on without those that are left, in seconds.
READ_SECONDS = 10.0
#: Time between two listings in which a version without a manifest may not change, to be complete, in seconds.
SETTLE_SECONDS = 2.0
#: Time that a request waits for a version to be fetched, in seconds.
WAIT_SECONDS = 60.0
#: Time between two looks for versions that other processes wait for, in seconds.
TICK_SECONDS = 0.2
#: In place of the text of a small object that can't be read. It is neither TOML nor JSON, so that it restricts a model
#: as an invalid file does.
UNREADABLE = "this object couldn't be read from the store\n"
#: Time that a start waits for the store, if there are copies, in seconds.
START_SECONDS = 10.0


class Mirror:
    """Copies of a store's versions in a folder. Implements `VersionSource`. Thread-safe.

    One thread lists the store, and others fetch: neither blocks the repository. A store that doesn't answer changes
    nothing about the copies.
    """

    def __init__(
        self,
        address: str,
        store: Store,
        cache: Cache,
        observer: StoreMetrics,
        *,
        poll_seconds: float = 30.0,
        settle_seconds: float = SETTLE_SECONDS,
        max_bytes: int = 0,
        lists_current: bool = False,
    ) -> None:
        """`max_bytes` limits the size of the copies; 0 is no limit but the filesystem's.

        A version without a manifest is complete if it didn't change for `settle_seconds` between two listings. With
        `lists_current`, the store lists the current version of a model only: one that isn't listed any more stays until
        one that is has been loaded.
        """
        self._address = address
        self._store = store
        self._cache = cache
        self._observer = observer
        self._poll_seconds = poll_seconds
        self._settle_seconds = settle_seconds
        self._lists_current = lists_current
        self._copies = Copies(cache, max_bytes, observer.cache_changed)
        self._failures = Failures()
        self._lock = threading.RLock()
        #: Held during a listing, and while something but a version is written to the store: a listing from before that
        #: would undo the change in the folder.
        self.exchange = threading.Lock()
        #: The objects of the last listing, and what they are.
        self._objects: list[StoredObject] = []
        self._found = Listing()
        #: Complete versions of the last listing, and what is kept although it wasn't listed once.
        self._listing = Listing()
        #: What the listing before had: identity of each version, and since when it has been the same.
        self._seen: dict[Key, tuple[str, float]] = {}
        self._missed: set[Key] = set()
        #: Versions that aren't listed any more, and stay until another is loaded.
        self._replaced: set[Key] = set()
        #: A listing whose small objects wait for the end of a scan, with their texts.
        self._late: tuple[Listing, Mapping[str, str]] | None = None
        #: The small objects of models: identities of those in the folder, by path, those that are being read, with
        #: their identities, and why others couldn't be.
        self._of_models: dict[str, str] = {}
        #: Those whose text in the folder comes from this process.
        self._own_texts: set[str] = set()
        self._reading: dict[str, tuple[str, Future[str]]] = {}
        self._unread: dict[str, str] = {}
        self._fetching: dict[Key, Future[None]] = {}
        self._away = 0
        self._away_text = ""
        self._unsettled = False
        self._versions: list[FoundVersion] = []
        self._pool = ThreadPoolExecutor(FETCHES, thread_name_prefix="fetch")
        self._readers = ThreadPoolExecutor(READS, thread_name_prefix="read")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="store watcher", daemon=True)

    # Life.

    def open(self) -> None:
        """Lists the store for the first time, or falls back to the copies of an earlier server.

        Raises OSError if the store doesn't answer and there are no copies, or another server changes the folder.
        """
        if not self._cache.lock():
            raise OSError(f"{self._cache.folder} is used by another server: give each its own --state folder")
        known = self._cache.read_listing()
        with self._lock:
            self._copies.open(known[0].versions if known is not None else {})
            self._of_models = dict.fromkeys(self._cache.of_models(), "")
            if known is not None:
                self._listing = known[0]
                # What was complete then, and is the same, is complete.
                self._seen = {key: (one.identity, -math.inf) for key, one in self._listing.versions.items()}
            self._note_change()
        listing = self._pool.submit(self.refresh)
        try:
            answered = listing.result(START_SECONDS if known is not None else None)
        except FutureTimeoutError:
            logger.error("%s doesn't list its objects in time; starting with the copies", self._address)
            return
        if answered:
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
        self._readers.shutdown(wait=True, cancel_futures=True)
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
            for key in self._failures:
                self._begin(key)

    def _pause(self) -> float:
        """Time until the next listing, in seconds."""
        if self._away:
            return delay(self._away)
        return min(self._poll_seconds, self._settle_seconds) if self._unsettled else self._poll_seconds

    # Listing.

    def refresh(self) -> bool:
        """Lists the store once. Returns whether it answered."""
        with self.exchange:
            return self._refresh()

    def _refresh(self) -> bool:
        try:
            objects = self._store.objects()
            if objects is not self._objects:
                self._objects, self._found = objects, arrange(objects, last_part(self._address))
            found = self._found
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
            if self._lists_current and self._copies.in_use is not None:
                # A scan may have read which versions there are, and not yet the labels: none is to point at a version
                # that the scan doesn't know.
                self._late = found, texts
            else:
                self._copy_of_models(found, texts)
            self._write_down()
            for key, identity in self._copies.identities.items():
                if key in self._listing.versions and self._listing.versions[key].identity != identity:
                    self._begin(key)
        return True

    def _note_away(self, error: OSError) -> None:
        text = error_text(error)
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
            if one.published or settled or one.problem or self._copies.identities.get(key) == identity:
                versions[key] = one
                continue
            self._unsettled = self._unsettled or not one.claimed
            if key in self._listing.versions:
                versions[key] = self._listing.versions[key]
        gone = self._listing.versions.keys() - found.versions.keys()
        self._replaced = {key for key in gone if self._is_needed(key, versions)}
        # A listing may be incomplete; two in a row are believed.
        versions |= {key: self._listing.versions[key] for key in self._replaced | (gone - self._missed)}
        self._missed = set(gone)
        self._unsettled = self._unsettled or any(key in versions for key in gone - self._replaced)
        # There may be copies of an earlier server, whose listing is lost.
        for key in (gone | self._copies.identities.keys()) - versions.keys():
            self._forget(key)
        self._listing = Listing(versions, found.of_models)
        self._note_change()

    def _is_needed(self, key: Key, listed: Iterable[Key]) -> bool:
        """Whether a version that isn't listed any more serves in place of those that are."""
        in_use = self._copies.in_use
        if in_use is None or not self._lists_current:
            return self._lists_current
        # Where memory is limited, one that isn't loaded would keep the others from being loaded.
        return key in in_use and in_use.isdisjoint(one for one in listed if one[0] == key[0])

    def _forget(self, key: Key) -> None:
        logger.info("model '%s' version %s is no longer in the store", *key)
        self._copies.remove(key)
        self._failures.forget(key)

    def _read_of_models(self, found: Listing) -> dict[str, str]:
        """Reads the small objects of models that have changed.

        Those that can't be read are read again with the next listing. Meanwhile what this process has read of them
        stays; of those that it has never read, the text is one that is valid in none of them. An older server's copy
        isn't trusted then: the object may have been changed to admit fewer callers.
        """
        left = set()
        for path, one in found.of_models.items():
            if self._of_models.get(path) != one.identity and path not in self._reading:
                task = self._readers.submit(self._store.read, one.path, MAX_LABELS_BYTES)
                self._reading[path] = one.identity, task
                left.add(task)
        done = left
        while left and done:
            done, left = wait_for(left, READ_SECONDS, FIRST_COMPLETED)
        texts, before, self._unread = {}, self._unread, {}
        for path, (identity, task) in tuple(self._reading.items()):
            now = found.of_models.get(path)
            if not task.done():
                self._unread[path] = f"{path}: no answer"
            else:
                del self._reading[path]
                try:
                    if now is not None and now.identity == identity:
                        texts[path] = task.result()
                except StoreError as error:
                    self._unread[path] = str(error)
            if not (reason := self._unread.get(path)):
                continue
            if reason != before.get(path):
                logger.error("can't read an object of a model; it is tried again: %s", reason)
            if path not in self._own_texts and now is not None:
                texts[path] = UNREADABLE
        return texts

    def _copy_of_models(self, found: Listing, texts: Mapping[str, str]) -> None:
        for path, text in texts.items():
            try:
                self._cache.write_of_model(path, text)
                if text is UNREADABLE:
                    self._of_models[path] = ""
                else:
                    self._of_models[path] = found.of_models[path].identity
                    self._own_texts.add(path)
            except OSError as error:
                logger.error("can't write the copy of %s, which is tried again: %s", path, error)
        for path in self._of_models.keys() - found.of_models.keys():
            with suppress(OSError):
                self._cache.remove_of_model(path)
                del self._of_models[path]
                self._own_texts.discard(path)

    def _write_down(self) -> None:
        """Writes the listing for other processes and the next start. Without it this process goes on."""
        try:
            self._cache.write_listing(self._listing, self._failures.problems())
        except OSError as error:
            logger.error("can't write the listing of the store: %s", error)

    # Versions for the repository.

    def versions(self) -> list[FoundVersion]:
        """Returns the versions of the store."""
        return self._versions

    def _note_change(self) -> None:
        self._versions = absent_versions(
            self._listing.versions, self._failures.problems(), self._cache, self._failures.passing()
        )

    def note_use(self, versions: Iterable[tuple[str, int]]) -> None:
        """Called after each scan with the versions in memory, whose files are to stay."""
        with self._lock:
            self._copies.use(versions)
            if self._late is not None:
                self._copy_of_models(*self._late)
                self._late = None
            listed = self._listing.versions.keys() - self._replaced
            for key in [key for key in self._replaced if not self._is_needed(key, listed)]:
                self._replaced.discard(key)
                self.drop(key)

    def want(self, name: str, version: int) -> None:
        """Has a version fetched, unless that failed a short time ago."""
        with self._lock:
            if not self._stopping.is_set() and (name, version) not in self._copies:
                self._begin((name, version))

    def fetch(self, name: str, version: int) -> None:
        """Waits until a version is in the folder. Raises as `VersionSource.fetch` does."""
        key = name, version
        with self._lock:
            if key in self._copies:
                return
            one = self._listing.versions.get(key)
            failure = self._failures.of(one) if one is not None else None
            self._begin(key, at_once=failure is not None and failure.passing)
            task = self._fetching.get(key)
        label = f"model '{name}' version {version}"
        try:
            if task is not None:
                task.result(WAIT_SECONDS)
                return
        except FutureTimeoutError:
            raise UnavailableError(f"{label} is being fetched from the store; try again in a moment") from None
        except StoreError as error:
            if error.kind in PASSING:
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
        failure = self._failures.of(one)
        if failure is not None and time.monotonic() < failure.again and not at_once:
            return
        self._fetching[key] = self._pool.submit(self._fetch, one)

    def _fetch(self, one: RemoteVersion) -> None:
        """Fetches a version, in a thread of the pool. Raises StoreError, which is recorded, too."""
        began = time.monotonic()
        try:
            self._transfer(one)
        except Exception as error:
            known = error if isinstance(error, StoreError) else StoreError(_kind(error), error_text(error))
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
            new = self._failures.note(one, error)
            self._note_change()
            self._write_down()
        if new:
            logger.error("model '%s' version %s can't be fetched: %s", one.name, one.version, error)
        self._observer.fetch_failed(one.name)

    def _transfer(self, one: RemoteVersion) -> None:
        if one.problem:
            raise StoreError("refused", one.problem)
        with self._lock:
            versions = self._listing.versions
            self._copies.make_room(one, [versions[key] for key in self._fetching if key in versions])
        folder = self._cache.unfinished()
        try:
            files = names(one.files)
            digests = self._store.fetch([one.files[name] for name in files], files, folder)
            check_manifest(folder, digests)
            with self._lock:
                self._take(one, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _take(self, one: RemoteVersion, folder: Path) -> None:
        self._copies.put(one, folder)
        self._failures.forget(one.key)
        self._note_change()

    # For the writer.

    def versions_of(self, name: str) -> dict[int, RemoteVersion]:
        """Returns the known versions of a model, by number."""
        with self._lock:
            return {version: one for (model, version), one in self._listing.versions.items() if model == name}

    def adopt(self, one: RemoteVersion, folder: Path) -> None:
        """Takes over a folder as the copy of a version that was written to the store."""
        with self._lock:
            self._listing.versions[one.key] = one
            self._seen[one.key] = one.identity, time.monotonic()
            self._take(one, folder)
            self._write_down()

    def drop(self, key: Key) -> None:
        """Forgets a version that was deleted from the store."""
        with self._lock:
            self._listing.versions.pop(key, None)
            self._forget(key)
            self._note_change()
            self._write_down()

    def copy_text(self, path: str, text: str | None) -> None:
        """Replaces the copy of a small object beside the versions that was written to the store, or removes it."""
        with self._lock:
            if text is None:
                self._cache.remove_of_model(path)
            else:
                self._cache.write_of_model(path, text)
            # Its identity isn't known: the next listing has it read again.
            self._of_models[path] = ""
            self._own_texts.add(path)


def _kind(error: Exception) -> Kind:
    """Returns the kind of an error that isn't the store's."""
    return "full" if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) else "refused"
