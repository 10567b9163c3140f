"""The datasets in a folder: finding, receiving, publishing and removing them."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from layerserve_server import folder_owner, wall_clock
from layerserve_server.datasets import dataset_limits
from layerserve_server.datasets.data_file import DataFile
from layerserve_server.datasets.dataset import (
    ID,
    RECORD,
    Dataset,
    Declaration,
    Description,
    content_name,
    write_samples,
)
from layerserve_server.datasets.partial_upload import (
    NOTE,
    PART_NAME,
    SYNC_BYTES,
    Part,
    WrongDigestError,
    part_name,
    unwritable,
)
from layerserve_server.disk import locked, sync
from layerserve_server.errors import (
    InvalidRequestError,
    RefusedChangeError,
    UnavailableError,
    UnknownDatasetError,
    safe_text,
)
from layerserve_server.folder_owner import OWNER_LOCK, FolderOwner, remove_folder, unfinished
from layerserve_server.records import DAMAGED, LATEST, log_damaged
from layerserve_server.wall_clock import JUMP_SECONDS, ClockJumps

logger = logging.getLogger(__name__)

#: The beginning of an id.
BEGINNING = re.compile("[0-9a-f]{6,64}")
#: Beginning of the names of folders of datasets that are being deleted.
DELETED = ".deleted-"

#: Describes the file of a dataset, in another process.
Describe: TypeAlias = Callable[[DataFile], Description]
#: Whether a caller may see a dataset.
Sees: TypeAlias = Callable[[Dataset], bool]
#: Returns the work that uses a dataset, in words; "" if none does.
UsedBy: TypeAlias = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class DatasetLimits:
    """Limits of all datasets; see the settings of these names. 0 `keep_seconds` is for ever."""

    max_bytes: int
    keep_seconds: float
    upload_seconds: float


class DatasetStore:
    """The datasets in a folder, which several servers may share. Thread-safe. All methods may block."""

    def __init__(self, folder: Path, limits: DatasetLimits, describe: Describe) -> None:
        self.folder = folder
        self._limits = limits
        self._describe = describe
        #: Uploads that streams of this server receive, by name of their folder.
        self._parts: dict[str, Part] = {}
        self._lock = threading.Lock()
        self._jumps = ClockJumps()

    # Finding.

    def datasets(self, sees: Sees = lambda dataset: True) -> list[Dataset]:
        """Returns the datasets that `sees` accepts, newest first."""
        found = (self._read(name) for name in self._names() if ID.fullmatch(name))
        datasets = [dataset for dataset in found if dataset is not None and sees(dataset)]
        return sorted(datasets, key=lambda dataset: (dataset.created, dataset.id), reverse=True)

    def get(self, id: str, sees: Sees = lambda dataset: True) -> Dataset:
        """Returns the dataset with this id, or the one whose id begins so. Those that `sees` refuses don't exist.

        Raises UnknownDatasetError if there is none, InvalidRequestError if there are several, and UnavailableError if
        the folder can't be read.
        """
        names = []
        if BEGINNING.fullmatch(id):
            names = [name for name in self._names() if name.startswith(id) and ID.fullmatch(name)]
        found = [dataset for dataset in map(self._read, names) if dataset is not None and sees(dataset)]
        if len(found) > 1:
            raise InvalidRequestError(f"dataset '{id}': got the beginning of {len(found)} ids, expected more digits")
        if not found:
            raise UnknownDatasetError(f"no dataset '{safe_text(id, 80)}'")
        return found[0]

    def expires(self, dataset: Dataset) -> float | None:
        """Returns the Unix time when a dataset is removed unless it is used before; None for never."""
        most = self._limits.keep_seconds
        seconds = min(dataset.keep_seconds or most, most) if most else dataset.keep_seconds
        # Callers may declare any number; a Timestamp ends with the year 9999.
        return min(LATEST, dataset.used + seconds) if seconds else None

    def use(self, id: str) -> None:
        """Notes that a dataset is used now. Raises UnknownDatasetError if it is gone."""
        try:
            os.utime(self.folder / id / RECORD)
        except OSError as error:
            raise UnknownDatasetError(f"dataset '{id}' has been deleted") from error

    def _names(self) -> list[str]:
        """Returns the names of all folders. Raises UnavailableError if they can't be read: none is denied then."""
        try:
            return os.listdir(self.folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            log_damaged(self.folder, error)
            raise UnavailableError("the folder of datasets can't be read; see the server's log") from error

    def file(self, dataset: Dataset) -> DataFile:
        """Returns the file of a dataset, for runs."""
        return DataFile(str(self.folder.absolute()), dataset.content, dataset.id)

    def _read(self, name: str) -> Dataset | None:
        try:
            return Dataset.read(self.folder / name)
        except FileNotFoundError:
            return None
        except DAMAGED as error:
            log_damaged(self.folder / name / RECORD, error)
            return None

    # Receiving.

    def open(self, declared: Declaration, owner: str, most: int | None, gone: Callable[[], bool]) -> Dataset | Part:
        """Begins an upload by a caller, or goes on with it. Returns the dataset if the caller has uploaded it before.

        `most` is the number of bytes that the caller may keep; None for no limit of its own. The part must be given to
        `close` at the end. Raises TooLargeError for more, and as `Part` and `Part.catch_up` do.
        """
        known = self._declared_again(declared, owner, sent=False)
        if known is not None:
            return known
        name = part_name(declared, owner)
        with self._changing():
            part = self._parts.get(name)
            if part is None:
                dataset_limits.check(self, declared, owner, self.folder / name, most)
                part = self._parts[name] = Part(self.folder / name, declared, owner)
            part.streams += 1
        try:
            part.catch_up(gone)
        except BaseException:
            self.close(part)
            raise
        return part

    def receive(self, part: Part, offset: int, data: bytes) -> None:
        """Adds bytes to a part. Raises as `Part.add`, and TooLargeError if other datasets have taken the room."""
        part.add(offset, data)
        if part.size - part.fitted >= SYNC_BYTES:
            self._check_fits(part)

    def _check_fits(self, part: Part) -> None:
        size = part.size
        with self._changing():
            dataset_limits.check_received(self, part)
        part.fitted = size

    def close(self, part: Part) -> None:
        """Ends a stream's use of a part."""
        with self._lock:
            part.streams -= 1
            if part.streams:
                return
            if self._parts.get(part.folder.name) is part:
                del self._parts[part.folder.name]
            # Before another stream may open it: it would find it taken, as by another server.
            part.close()

    def finish(self, part: Part) -> Dataset:
        """Checks and describes the file of a part, and publishes it as a dataset.

        If another stream of the caller has done that already, returns its dataset. Raises as `Part.check` and the
        function that describes files do. A file that isn't the declared one or can't be read is removed.
        """
        with part.finishing:
            known = self._declared_again(part.declared, part.owner, sent=False)
            if known is None:
                try:
                    part.check()
                    self._check_fits(part)
                    # Only now: of another caller's dataset, the content proves what the digest alone doesn't.
                    known = self._declared_again(part.declared, part.owner, sent=True)
                    if known is None:
                        description = self._described(part.folder, part.declared)
                        known = self._publish(part.folder, part.declared, part.owner, description)
                except (WrongDigestError, InvalidRequestError) as error:
                    self._discard(part, error)
                    raise
            shutil.rmtree(part.folder, ignore_errors=True)
        with self._lock:
            # Not for streams that come later: its folder is gone.
            if self._parts.get(part.folder.name) is part:
                del self._parts[part.folder.name]
        return known

    def make(
        self, declared: Declaration, owner: str, most: int | None, write: Callable[[Path, int], tuple[int, str]]
    ) -> Dataset:
        """Makes a dataset of a file that `write` writes.

        `declared` has no size and digest yet: `write` is called with the path of the file and its maximum size, and
        returns both. Raises what it raises, TooLargeError and RefusedChangeError.
        """
        try:
            with unfinished(self.folder) as folder:
                with self._changing():
                    left = dataset_limits.left(self, owner, most)
                size, digest = write(folder / content_name(declared.format), left)
                declared = replace(declared, bytes=size, sha256=digest)
                known = self._declared_again(declared, owner, sent=True)
                if known is not None:
                    return known
                with self._changing():
                    dataset_limits.check(self, declared, owner, folder, most)
                return self._publish(folder, declared, owner, self._described(folder, declared))
        except OSError as error:
            raise unwritable(error) from error

    def _described(self, folder: Path, declared: Declaration) -> Description:
        """Describes the file of a folder that isn't a dataset yet."""
        return self._describe(DataFile(str(folder), content_name(declared.format), declared.sha256))

    def _declared_again(self, declared: Declaration, owner: str, *, sent: bool) -> Dataset | None:
        """Returns the dataset that a caller declares, with what it declares; None if there is none.

        Unless the caller has `sent` the file, only a shared one, or one that it has uploaded before: to know its digest
        proves nothing.
        """
        with self._changing():
            known = self._read(declared.sha256)
            if known is None or not (sent or owner in known.owner_names or known.shared):
                return None
            if owner in known.owner_names or sent:
                changed = known.declared_again(declared, owner)
                if changed != known:
                    try:
                        changed.write(self.folder / known.id)
                    except OSError as error:
                        raise unwritable(error) from error
        with contextlib.suppress(UnknownDatasetError):
            self.use(known.id)
        return self._read(known.id)

    def _publish(self, folder: Path, declared: Declaration, owner: str, description: Description) -> Dataset:
        """Makes a complete and described folder a dataset, by a rename."""
        dataset = Dataset.new(declared, owner, time.time(), description.arrays)
        target = self.folder / dataset.id
        try:
            write_samples(folder, description)
            dataset.write(folder)
            for path in (*folder.iterdir(), folder):
                sync(path)
            with self._changing():
                self._move(folder, target)
            sync(self.folder)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                # Another caller's upload of the same file came first.
                known = self._declared_again(declared, owner, sent=True)
                if known is not None:
                    shutil.rmtree(folder, ignore_errors=True)
                    return known
            raise unwritable(error) from error
        for name in (NOTE, OWNER_LOCK):
            (target / name).unlink(missing_ok=True)
        logger.info("a dataset is complete", extra={"dataset": dataset.id, "bytes": dataset.bytes})
        return self._read(dataset.id) or dataset

    def _move(self, folder: Path, target: Path) -> None:
        """Moves the files of a dataset to its place. Raises OSError, also if there is another that isn't damaged."""
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not self._is_damaged(target.name):
                raise
            # The record last: with it the dataset is complete.
            for path in sorted(folder.iterdir(), key=lambda path: path.name == RECORD):
                path.replace(target / path.name)
            sync(target)
            logger.warning("a damaged dataset was uploaded again", extra={"dataset": target.name})

    def _is_damaged(self, name: str) -> bool:
        """Whether a dataset's folder has no valid record. One that can't be read for now isn't damaged."""
        try:
            Dataset.read(self.folder / name)
        except FileNotFoundError:
            return (self.folder / name).is_dir()
        except DAMAGED as error:
            return not isinstance(error, OSError)
        return False

    def _discard(self, part: Part, error: WrongDigestError | InvalidRequestError) -> None:
        with self._lock:
            part.gone = error
            self._parts.pop(part.folder.name, None)
        shutil.rmtree(part.folder, ignore_errors=True)

    @property
    def open_parts(self) -> dict[str, Part]:
        """Uploads that streams of this server receive, by name of their folder. Called within a change."""
        return self._parts

    @property
    def max_bytes(self) -> int:
        """Maximum number of bytes of all datasets."""
        return self._limits.max_bytes

    # Removing.

    def delete(self, dataset: Dataset, owner: str | None, used_by: UsedBy) -> None:
        """Deletes a dataset; with an `owner` only for that caller, if others have uploaded it, too.

        Raises RefusedChangeError if a run uses it, and UnknownDatasetError if it is gone.
        """
        with self._changing():
            known = self._read(dataset.id)
            if known is None:
                raise UnknownDatasetError(f"dataset '{dataset.id}' has been deleted")
            others = tuple(one for one in known.owners if one.name != owner)
            if owner is not None and others:
                try:
                    replace(known, owners=others).write(self.folder / known.id)
                except OSError as error:
                    raise unwritable(error) from error
                return
        if run := used_by(dataset.id) or self._remove(dataset.id, used_by):
            raise RefusedChangeError(f"dataset '{dataset.id}': {run} uses it; cancel it first, or delete it")

    def sweep(self, used_by: UsedBy) -> None:
        """Removes expired datasets and uploads, and what servers that were killed have left.

        A dataset that a run uses counts as used now. So does everything if the clock was set: the times that files
        have tell no age then. Nor does anything expire soon after the machine's start.
        """
        jumped, sure = self._jumps.seen(), wall_clock.is_sure()
        folder_owner.sweep(self.folder)
        now = time.time()
        for name in self._names():
            path = self.folder / name
            if ID.fullmatch(name):
                used, expires = self._times(name)
                if expires is None:
                    continue
                renewed = jumped or used > now + JUMP_SECONDS
                if not renewed and (expires > now or not sure):
                    continue
                if renewed or used_by(name) or self._remove(name, used_by):
                    with contextlib.suppress(UnknownDatasetError):
                        self.use(name)
                else:
                    logger.info("removed a dataset that hasn't been used for its time", extra={"dataset": name})
            elif PART_NAME.fullmatch(name):
                if jumped or _last_written(path) > now + JUMP_SECONDS:
                    _renew(path)
                elif sure:
                    self._sweep_part(path, now)
            elif name.startswith(DELETED):
                self._sweep_deleted(path, used_by)

    def _times(self, name: str) -> tuple[float, float | None]:
        """Returns the Unix times when a dataset was last used and when it expires; None for never."""
        dataset = self._read(name)
        if dataset is not None:
            return dataset.used, self.expires(dataset)
        used, most = _last_written(self.folder / name), self._limits.keep_seconds
        return used, used + most if most and self._is_damaged(name) else None

    def _sweep_part(self, path: Path, now: float) -> None:
        with self._changing():
            if now - _last_written(path) <= self._limits.upload_seconds:
                return
            owner = FolderOwner(path)
            # Without locks it isn't known whether a server receives it: then it stays.
            with contextlib.suppress(OSError):
                if owner.acquire():
                    shutil.rmtree(path, ignore_errors=True)
                    owner.release()
                    logger.info("removed an upload that hasn't been finished in time", extra={"upload": path.name})

    def _sweep_deleted(self, path: Path, used_by: UsedBy) -> None:
        """Ends a deletion that a server hasn't ended."""
        id = path.name.removeprefix(DELETED).partition("-")[0]
        with contextlib.suppress(OSError):
            if used_by(id):
                path.rename(self.folder / id)
                return
        remove_folder(path)

    def _remove(self, id: str, used_by: UsedBy) -> str:
        """Removes a dataset, unless a run uses it, which is then returned in words.

        A run notes its datasets first and looks for them then; the dataset is first moved away, and the runs are looked
        at then. So one of the two sees the other, whichever servers they are on.
        """
        moved = self.folder / f"{DELETED}{id}-{secrets.token_hex(4)}"
        try:
            (self.folder / id).rename(moved)
        except OSError as error:
            raise UnknownDatasetError(f"dataset '{id}' has been deleted") from error
        if run := used_by(id):
            with contextlib.suppress(OSError):
                moved.rename(self.folder / id)
            return run
        remove_folder(moved)
        return ""

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Excludes other changes, of this server and of others on the folder. Raises RefusedChangeError."""
        with self._lock, contextlib.ExitStack() as held:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(self.folder / ".lock"))
            except OSError as error:
                raise unwritable(error) from error
            yield


def _renew(folder: Path) -> None:
    """Gives a folder and its files the time of now."""
    with contextlib.suppress(OSError):
        for path in (folder, *folder.iterdir()):
            os.utime(path)


def _last_written(folder: Path) -> float:
    """Returns the Unix time when something in a folder was last written; now if it is gone."""
    with contextlib.suppress(OSError, ValueError):
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    return time.time()
