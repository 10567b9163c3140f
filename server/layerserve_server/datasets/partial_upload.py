"""A resumable upload, kept in a folder that survives disconnects, crashes and a full disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from layerserve_server.datasets.dataset import Declaration, content_name
from layerserve_server.disk import replace_file
from layerserve_server.errors import (
    CallCancelledError,
    IncompleteDataError,
    InvalidRequestError,
    RefusedChangeError,
    ServerError,
    TooLargeError,
    UnavailableError,
)
from layerserve_server.folder_owner import FolderOwner
from layerserve_server.records import checked, log_damaged, read_object

#: Names of these folders (see `part_name`).
PART_NAME = re.compile(r"[0-9a-f]{64}-[a-z]+-[0-9a-f]{16}\.part")
#: File with who uploads what, and the number of bytes that are safe from a crash of the machine.
NOTE = "upload.json"
#: Number of bytes after which the file is flushed to disk.
SYNC_BYTES = 64 << 20
#: Size of the pieces that are read to go on with a digest, in bytes.
PIECE = 4 << 20
#: Errors of a disk without room.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Note:
    """What is known of an upload: its declaration, the number of bytes that are flushed, and the machine's start."""

    owner: str = ""
    bytes: int = 0
    title: str = ""
    synced: int = 0
    boot: str = ""


class Part:
    """The bytes of an upload that have come so far. Several streams of its caller may add to it. Thread-safe."""

    def __init__(self, folder: Path, declared: Declaration, owner: str) -> None:
        """Goes on with what is in `folder`, if anything.

        Raises UnavailableError if another server receives the same upload, and RefusedChangeError or TooLargeError if
        the folder can't be written.
        """
        self.folder = folder
        self.declared = declared
        self.owner = owner
        #: Number of streams that use it.
        self.streams = 0
        #: Held by the stream that checks and publishes the complete file.
        self.finishing = threading.Lock()
        #: Why it is gone; None while it isn't.
        self.gone: ServerError | None = None
        self.size = 0
        #: Its size when there was room for it.
        self.fitted = 0
        self._lock = threading.Lock()
        self._hash = hashlib.sha256()
        self._hashed = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._server = FolderOwner(folder)
            if not self._server.acquire():
                raise UnavailableError("another server on the same state receives this dataset; try again")
            self._file = self.content.open("a+b", buffering=0)
            self._go_on()
        except OSError as error:
            raise self._unwritable(error) from error

    @property
    def content(self) -> Path:
        """Path of the file."""
        return self.folder / content_name(self.declared.format)

    @property
    def complete(self) -> bool:
        """Whether all bytes have come."""
        return self.size == self.declared.bytes

    def _go_on(self) -> None:
        """Finds out how much of the file can be relied on, and drops the rest. Raises OSError."""
        note = read_note(self.folder)
        size = os.fstat(self._file.fileno()).st_size
        safe = min(size, max(0, note.synced))
        # What a killed server has written is in the system's memory, unless the machine has started since.
        running = boot_id()
        self.size = size if running and note.boot == running else safe
        if note.bytes != self.declared.bytes or self.size > self.declared.bytes:
            self.size = 0
        self._synced = min(safe, self.size)
        os.ftruncate(self._file.fileno(), self.size)
        self._write_note()

    def catch_up(self, gone: Callable[[], bool]) -> None:
        """Goes on with the digest of what an earlier server has received, in pieces.

        Raises CallCancelledError once `gone` returns True.
        """
        while True:
            with self._lock:
                self._check_present()
                if self._hashed == self.size:
                    return
                piece = os.pread(self._file.fileno(), min(PIECE, self.size - self._hashed), self._hashed)
                if not piece:
                    # Something else has cut the file.
                    self.size = self._hashed
                    return
                self._hash.update(piece)
                self._hashed += len(piece)
            if gone():
                raise CallCancelledError("the client cancelled the call")

    def add(self, offset: int, data: bytes) -> None:
        """Writes bytes at a position. Those that have come before, also by another stream, are skipped.

        Raises InvalidRequestError for a gap, or more bytes than are declared, TooLargeError if the disk is full,
        RefusedChangeError if it can't be written, and the error that has ended the upload.
        """
        with self._lock:
            self._check_present()
            size, total = self.size, self.declared.bytes
            if not 0 <= offset <= size:
                raise InvalidRequestError(f"chunk: got one at byte {offset}, expected one at most at byte {size}")
            if offset + len(data) > total:
                raise InvalidRequestError(f"chunk: got bytes up to {offset + len(data)}, expected {total} as declared")
            new = memoryview(data)[size - offset :]
            if not new:
                return
            try:
                written = 0
                while written < len(new):
                    written += self._file.write(new[written:])
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file.fileno(), size)
                raise self._unwritable(error) from error
            self._hash.update(new)
            self.size = self._hashed = size + len(new)
            if self.size - self._synced >= SYNC_BYTES:
                self._sync()

    def check(self) -> None:
        """Checks that the file is the declared one, and flushes it to disk.

        Raises IncompleteDataError if it is cut off or has another digest, TooLargeError, RefusedChangeError.
        """
        with self._lock:
            self._check_present()
            if not self.complete:
                raise IncompleteDataError(
                    f"the stream ended after {self.size} bytes, expected {self.declared.bytes}; what has come is kept: "
                    "upload the same file again to go on"
                )
            if self._hash.hexdigest() != self.declared.sha256:
                raise WrongDigestError(
                    f"the file has sha256 {self._hash.hexdigest()}, expected {self.declared.sha256}; it is removed"
                )
            self._sync()

    def close(self) -> None:
        """Closes the files. What has come stays."""
        with self._lock:
            self.gone = self.gone or UnavailableError("the upload has been closed")
            self._file.close()
            self._server.release()

    def _check_present(self) -> None:
        if self.gone is not None:
            raise type(self.gone)(str(self.gone))

    def _sync(self) -> None:
        try:
            os.fsync(self._file.fileno())
            self._synced = self.size
            self._write_note()
        except OSError as error:
            raise self._unwritable(error) from error

    def _write_note(self) -> None:
        note = Note(self.owner, self.declared.bytes, self.declared.title, self._synced, boot_id())
        replace_file(self.folder / NOTE, json.dumps(asdict(note)))

    def _unwritable(self, error: OSError) -> ServerError:
        if error.errno in FULL:
            return TooLargeError(
                f"the disk is full: {self.size} of {self.declared.bytes} bytes are kept; upload the same file again to "
                "go on"
            )
        return unwritable(error)


class WrongDigestError(IncompleteDataError):
    """The complete file isn't the declared one."""


def unwritable(error: OSError) -> RefusedChangeError:
    """Returns the error of a folder that can't be written."""
    return RefusedChangeError(f"the folder of datasets can't be written: {error.strerror}")


def part_name(declared: Declaration, owner: str) -> str:
    """Returns the name of the folder of an upload. Callers don't share one: neither can spoil the other's bytes."""
    whose = hashlib.sha256(owner.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{declared.sha256}-{declared.format}-{whose}.part"


def read_note(folder: Path) -> Note:
    """Reads the note of an upload. That of no bytes if there is none, or it is damaged."""
    try:
        return checked(Note(**read_object(folder / NOTE)))
    except TypeError as error:
        log_damaged(folder / NOTE, error)
        return Note()


def boot_id() -> str:
    """Returns what distinguishes the machine's starts; empty if the system doesn't have it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
