"""Rows that callers may still use, kept for all processes of a server together."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import time
import weakref
from hashlib import blake2b
from pathlib import Path

#: A slot: digest of a quota, its balance in rows, and the time of that on the clock of `time.monotonic`.
_SLOT = struct.Struct("<16sdd")
#: Number of slots, and of those in which a quota may be. If all of these are taken, the one that was used least
#: recently is used anew: its caller gets a full balance, which it nearly has by then.
SLOTS = 8192
PROBED = 8


class Balances:
    """Balances of quotas in memory that processes share. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """`path` is a file made by `create`."""
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        self._memory = mmap.mmap(self._file, SLOTS * _SLOT.size)
        self._lock = threading.Lock()

    @staticmethod
    def create(path: Path) -> None:
        """Makes the file. Raises OSError."""
        path.write_bytes(bytes(SLOTS * _SLOT.size))

    def take(self, digest: bytes, rows: float, most: float, rate: float) -> float:
        """Uses `rows` of a quota's rows, of which there are `most`, and `rate` more each second.

        Returns the time until there are some again, in seconds; 0 if the rows were used.
        """
        with self._lock:
            # The lock of the file excludes other processes only; the system frees that of one that ends.
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                now = time.monotonic()
                at, balance, since = self._find(digest, most, now)
                balance = min(most, balance + (now - since) * rate)
                wait = 0.0 if balance > 0 else (1 - balance) / rate
                _SLOT.pack_into(self._memory, at, digest, balance if wait else balance - rows, now)
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        return wait

    def _find(self, digest: bytes, most: float, now: float) -> tuple[int, float, float]:
        """Returns the position of a quota's slot, its balance and time."""
        first = int.from_bytes(digest[:4], "little")
        oldest, oldest_since = 0, float("inf")
        for number in range(first, first + PROBED):
            at = number % SLOTS * _SLOT.size
            found, balance, since = _SLOT.unpack_from(self._memory, at)
            if found == digest:
                return at, balance, since
            if since < oldest_since:
                oldest, oldest_since = at, since
        return oldest, most, now


def digest_of(*parts: object) -> bytes:
    """Returns what a quota is found by."""
    return blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
