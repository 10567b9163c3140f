"""Versions that couldn't be fetched, and when they are tried again."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

from layerserve_server.extensions.object_stores.objects import StoreError
from layerserve_server.extensions.stores.listing import Key, RemoteVersion

#: Time between two attempts after a failure, in seconds: at first, and at most. It doubles with each failure.
RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 60.0
#: The same if what the store has is wrong: then the whole version is transferred for nothing.
WRONG_SECONDS, MAX_WRONG_SECONDS = 15.0, 3600.0
#: Reasons that aren't the version's own, and may be over for the next request.
PASSING = ("away", "full")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a version couldn't be fetched, and when it is tried again (monotonic time, in seconds)."""

    identity: str
    count: int
    again: float
    error: StoreError

    @property
    def passing(self) -> bool:
        """Whether the next request may try again."""
        return self.error.kind in PASSING


class Failures:
    """The last failure of each version. Not thread-safe: its methods are called with the mirror's lock held."""

    def __init__(self) -> None:
        self._failures: dict[Key, Failure] = {}

    def __iter__(self) -> Iterator[Key]:
        return iter(tuple(self._failures))

    def of(self, one: RemoteVersion) -> Failure | None:
        """Returns the failure of a version with the content that it has now; None if there is none."""
        failure = self._failures.get(one.key)
        return failure if failure is not None and failure.identity == one.identity else None

    def note(self, one: RemoteVersion, error: StoreError) -> bool:
        """Records a failure. Returns whether it has another reason than the one before."""
        before = self._failures.get(one.key)
        same = self.of(one)
        count = 1 if same is None else same.count + 1
        limits = (RETRY_SECONDS, MAX_RETRY_SECONDS) if error.kind in PASSING else (WRONG_SECONDS, MAX_WRONG_SECONDS)
        again = time.monotonic() + delay(count, *limits)
        self._failures[one.key] = Failure(one.identity, count, again, error)
        return before is None or str(before.error) != str(error)

    def forget(self, key: Key) -> None:
        """Forgets the failure of a version, if there is one."""
        self._failures.pop(key, None)

    def problems(self) -> dict[Key, str]:
        """Returns the reasons that the versions themselves have, or the folder of copies, by version."""
        return {key: str(one.error) for key, one in self._failures.items() if one.error.kind != "away"}

    def passing(self) -> dict[Key, str]:
        """Returns why the store hasn't sent versions so far, which may be over for the next request, by version."""
        return {key: str(one.error) for key, one in self._failures.items() if one.error.kind == "away"}


def delay(failures: int, first: float = RETRY_SECONDS, most: float = MAX_RETRY_SECONDS) -> float:
    """Returns the time until the next attempt, in seconds; it isn't the same for all servers."""
    return min(first * 2.0 ** min(failures - 1, 12), most) * random.uniform(0.75, 1.25)
