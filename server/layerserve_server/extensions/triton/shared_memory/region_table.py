"""The regions that callers have registered. Each caller has regions of its own, and sees no others."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from layerserve_server.errors import InvalidRequestError, NotFoundError, QuotaError, safe_text
from layerserve_server.extensions.triton.shared_memory import files
from layerserve_server.extensions.triton.shared_memory.files import FileIdentity, UnusableFileError
from layerserve_server.services.prediction.places import Place

#: Maximum number of regions of a caller, and of all. A region takes no memory but what describes it.
MAX_CALLER_REGIONS: Final = 256
MAX_REGIONS: Final = 4096
#: Maximum length of a region's name, in characters.
MAX_NAME: Final = 256
#: A time after which a refused registration may succeed, in seconds.
RETRY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a file that a caller has registered."""

    name: str
    #: Name of the file as the caller wrote it.
    key: str
    #: From the beginning of the file, in bytes.
    offset: int
    size: int
    file_name: str
    file: FileIdentity

    def check(self, place: Place) -> None:
        """Raises InvalidRequestError if a place isn't in the region."""
        # The beginnings of these texts are Triton's.
        if place.offset >= self.size:
            raise InvalidRequestError(
                f"Invalid offset for shared memory region: '{self.name}': got {place.offset}, expected less than "
                f"{self.size}"
            )
        if place.offset + place.size >= 2**64:
            raise InvalidRequestError(
                f"Integer overflow detected: byte_size ({place.size}) + offset ({place.offset}) for shared memory "
                f"region: '{self.name}'"
            )
        if place.offset + place.size > self.size:
            raise InvalidRequestError(
                f"Invalid offset + byte size for shared memory region: '{self.name}': got {place.offset} + "
                f"{place.size}, expected at most {self.size}"
            )

    def read(self, place: Place) -> bytes:
        """Returns the bytes of a place, which is checked. Raises InvalidRequestError."""
        try:
            return files.read(self.file_name, self.file, self.offset + place.offset, place.size)
        except UnusableFileError as error:
            raise self._unusable(error) from error

    def write(self, place: Place, content: memoryview) -> None:
        """Writes into a place, which is checked and has room for the bytes. Raises InvalidRequestError."""
        try:
            files.write(self.file_name, self.file, self.offset + place.offset, content)
        except UnusableFileError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: UnusableFileError) -> InvalidRequestError:
        return InvalidRequestError(f"shared memory region '{self.name}', key '{safe_text(self.key, 80)}': {error}")


class RegionTable:
    """The registered regions, by owner and name. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns the time in seconds."""
        self._clock = clock
        #: When regions may be looked through again for those whose file is gone: a caller may ask for it all the time.
        self._next_look = -math.inf
        self._regions: dict[str, dict[str, Region]] = {}
        self._lock = threading.Lock()

    def register(self, owner: str, name: str, key: str, *, offset: int, size: int, user: int) -> None:
        """Adds a region of `size` bytes, whose file belongs to a user of the operating system.

        Raises InvalidRequestError and QuotaError.
        """
        if not 0 < len(name) <= MAX_NAME:
            raise InvalidRequestError(f"name: got {len(name)} characters, expected 1 to {MAX_NAME}")
        label, key_label = safe_text(name, 80), safe_text(key, 80)
        # The beginnings of these texts are Triton's.
        file_name = files.file_name(key)
        if file_name is None:
            raise InvalidRequestError(
                f"cannot register shared memory region '{label}' - invalid shm key '{key_label}': expected the name of "
                f"a file in {files.FOLDER}"
            )
        failed = f"failed to register shared memory region '{label}', key '{key_label}': invalid args"
        if not size:
            raise InvalidRequestError(f"{failed}: got a byte_size of 0, expected at least 1")
        try:
            file = files.identify(file_name, user, offset + size)
        except UnusableFileError as error:
            raise InvalidRequestError(f"{failed}: {error}") from error
        with self._lock:
            if name in self._regions.get(owner, {}):
                raise InvalidRequestError(f"shared memory region '{label}' already in manager; unregister it first")
            self._make_room(owner)
            self._regions.setdefault(owner, {})[name] = Region(name, key, offset, size, file_name, file)

    def _make_room(self, owner: str) -> None:
        """Forgets regions without a file if there are too many. Raises QuotaError if there still are."""
        if self._is_full(owner) and self._clock() >= self._next_look:
            self._next_look = self._clock() + RETRY_SECONDS
            kept = {
                one: {name: region for name, region in own.items() if files.exists(region.file_name, region.file)}
                for one, own in self._regions.items()
            }
            self._regions = {one: own for one, own in kept.items() if own}
        if self._is_full(owner):
            raise QuotaError(
                f"got too many regions, expected at most {MAX_CALLER_REGIONS} of a caller and {MAX_REGIONS} of all; "
                "unregister some",
                RETRY_SECONDS,
            )

    def _is_full(self, owner: str) -> bool:
        count = sum(map(len, self._regions.values()))
        return count >= MAX_REGIONS or len(self._regions.get(owner, ())) >= MAX_CALLER_REGIONS

    def unregister(self, owner: str, name: str) -> None:
        """Forgets a region of a caller, or all of them if the name is empty. There may be none."""
        with self._lock:
            own = self._regions.get(owner)
            if own is None:
                return
            if name:
                own.pop(name, None)
            if not name or not own:
                del self._regions[owner]

    def all(self, owner: str) -> list[Region]:
        """Returns the regions of a caller, in the order of their registration."""
        with self._lock:
            return list(self._regions.get(owner, {}).values())

    def find(self, owner: str, name: str) -> Region:
        """Returns a region of a caller. Raises NotFoundError."""
        with self._lock:
            found = self._regions.get(owner, {}).get(name)
        if found is None:
            # As Triton has it.
            raise NotFoundError(f"Unable to find system shared memory region: '{safe_text(name, 80)}'")
        return found
