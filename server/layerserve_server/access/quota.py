"""Quotas: rows per time, open runs and datasets of a caller."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from layerserve_server.access.balances import Balances, digest_of
from layerserve_server.errors import QuotaError

T = TypeVar("T")

#: Maximum number of entries that are kept by what callers choose: headers, models, and names in JSON Web Tokens.
MAX_KEPT = 4096
#: Part of a quota that a process takes of the common balance at a time, which costs as much as a small request.
BORROWED_PART = 64
#: Time after which a caller with too many runs may try again, in seconds.
RUNS_RETRY_SECONDS = 10.0


def rows_of(shapes: Iterable[Sequence[int]]) -> int:
    """Returns the number of rows that a request with arrays of these shapes uses: the most of them, at least one."""
    return max((1, *(shape[0] for shape in shapes if shape)))


class Quota:
    """Limits of one caller, and what it has used of them. Thread-safe."""

    __slots__ = (
        *("_balance", "_balances", "_beginning", "_digest", "_lock", "_since"),
        *("max_dataset_bytes", "max_runs", "name", "rows", "seconds"),
    )

    def __init__(
        self,
        name: str,
        rows: float | None,
        seconds: float = 1.0,
        max_runs: int | None = None,
        balances: Balances | None = None,
        space: str = "",
        max_dataset_bytes: int | None = None,
    ) -> None:
        """Allows `rows` rows per `seconds`, `max_runs` open runs, and datasets of `max_dataset_bytes` together.

        None means no limit.

        With `balances` the rows are those of all processes; `space` is what else than the name distinguishes it there.
        """
        self.name = name
        self.rows = rows
        self.seconds = seconds
        self.max_runs = max_runs
        self.max_dataset_bytes = max_dataset_bytes
        #: Rows that may still be computed, at the time `_since`; with `balances` those taken of them in advance.
        self._balance = (rows or 0.0) if balances is None else 0.0
        self._since = time.monotonic()
        self._balances = balances
        self._digest = digest_of(space, name, rows, seconds)
        #: Number of runs that are being begun.
        self._beginning = 0
        self._lock = threading.Lock()

    def take_rows(self, rows: int) -> None:
        """Uses `rows` rows. Raises QuotaError if none are left.

        A request may use more rows than are left, so that one with more rows than the quota isn't refused for ever; the
        next ones then wait longer.
        """
        if self.rows is None:
            return
        rate = self.rows / self.seconds
        wait = self._take(rows, self.rows, rate) if self._balances is None else self._borrow(self._balances, rows, rate)
        if wait:
            raise QuotaError(
                f"caller '{self.name}': its quota of {self.rows:g} rows per {self._period()} is used up",
                retry_after=wait,
            )

    def _take(self, rows: int, most: float, rate: float) -> float:
        """See Balances.take."""
        with self._lock:
            now = time.monotonic()
            self._balance = min(most, self._balance + (now - self._since) * rate)
            self._since = now
            if self._balance > 0:
                self._balance -= rows
                return 0.0
            return (1 - self._balance) / rate

    def _borrow(self, balances: Balances, rows: int, rate: float) -> float:
        """Like `_take`, from what was taken of the common balance in advance: a part of the quota at a time."""
        assert self.rows is not None
        with self._lock:
            if self._balance < rows:
                more = max(float(rows), self.rows / BORROWED_PART)
                wait = balances.take(self._digest, more, self.rows, rate)
                if wait:
                    return wait
                self._balance += more
            self._balance -= rows
            return 0.0

    def run(self, begin: Callable[[], T], open_runs: Callable[[], int]) -> T:
        """Begins a training run. `open_runs` returns how many of the caller's haven't ended.

        Raises QuotaError if the caller has as many queued and running runs as it may have.
        """
        with self._lock:
            if self.max_runs is not None and (count := open_runs() + self._beginning) >= self.max_runs:
                raise QuotaError(
                    f"caller '{self.name}': got {count} queued and running runs, expected fewer than {self.max_runs}",
                    retry_after=RUNS_RETRY_SECONDS,
                )
            self._beginning += 1
        try:
            return begin()
        finally:
            with self._lock:
                self._beginning -= 1

    def _period(self) -> str:
        return {1.0: "second", 60.0: "minute"}.get(self.seconds, f"{self.seconds:g} seconds")


class Quotas:
    """The quotas of all callers, kept when the tokens file is read again: what was used stays used."""

    def __init__(self, balances: Balances | None = None) -> None:
        self._balances = balances
        self._quotas: dict[tuple[object, ...], Quota] = {}

    def get(
        self,
        name: str,
        rows: float | None,
        seconds: float = 1.0,
        max_runs: int | None = None,
        space: str = "",
        max_dataset_bytes: int | None = None,
    ) -> Quota | None:
        """Returns the quota of a name with these limits, which all of its tokens share; None if there are none.

        `space` is what else distinguishes the name: the issuer of a JSON Web Token.
        """
        if rows is None and max_runs is None and max_dataset_bytes is None:
            return None
        key = (space, name, rows, seconds, max_runs, max_dataset_bytes)
        found = self._quotas.get(key)
        if found is None:
            if len(self._quotas) >= MAX_KEPT:
                self._quotas.pop(next(iter(self._quotas)), None)
            made = Quota(name, rows, seconds, max_runs, self._balances, space, max_dataset_bytes)
            found = self._quotas.setdefault(key, made)
        return found
