"""Idempotency keys: a repeated call finds the run, or other work, that an earlier call with its key has begun."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from layerserve_server.access.caller import Caller
from layerserve_server.disk import replace_file
from layerserve_server.errors import NotTrainableError, UnavailableError
from layerserve_server.services.run_access import seen_by
from layerserve_server.training.request import RunRequest
from layerserve_server.training.runs.registry import Runs
from layerserve_server.training.runs.run import Run

logger = logging.getLogger(__name__)

#: Name of the file in the folder of what was begun, with the spec of its call.
SPEC = "spec.pb"


class Begun(Protocol):
    """What a call has begun. Its request has the key."""

    @property
    def id(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def request(self) -> RunRequest: ...


T = TypeVar("T", bound=Begun)


class IdempotencyKeys(Generic[T]):
    """Begins work once for each key of a caller. Thread-safe."""

    def __init__(
        self,
        noun: str,
        find: Callable[[str, str, Callable[[RunRequest], bool]], T | None],
        is_begun: Callable[[T], bool] = lambda found: True,
    ) -> None:
        """`find` returns the work of a caller's key among the requests that exist for the caller.

        `is_begun` returns whether work that was found counts; if it doesn't, it gives the work up.
        """
        self._noun = noun
        self._find = find
        self._is_begun = is_begun
        #: Caller and key of the calls that are looking for work or begin some.
        self._held: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def begin(self, caller: Caller, key: str, kind: str, spec: Message, begin: Callable[[], T]) -> tuple[T, bool]:
        """Returns the work of a key, and whether an earlier call has begun it; otherwise begins it.

        `kind` is the kind of its runs. Work that doesn't exist for the caller any more isn't found. Raises
        NotTrainableError if the earlier call had another spec, UnavailableError while another call with the key begins,
        and as `find` and `begin` do.
        """
        if not key:
            return begin(), False
        with self._hold(caller.owner, key):
            found = self._find(caller.owner, key, seen_by(caller))
            if found is not None:
                self._check_same(found, key, kind, spec)
                if self._is_begun(found):
                    return found, True
            begun = begin()
            try:
                replace_file(begun.folder / SPEC, spec.SerializeToString())
            except OSError as error:
                # It goes on; a call with its key and another spec finds it, too.
                logger.warning(
                    "can't keep the spec of the %s: %s", self._noun, error.strerror, extra={self._noun: begun.id}
                )
            return begun, False

    @contextmanager
    def _hold(self, caller: str, key: str) -> Iterator[None]:
        with self._lock:
            if (caller, key) in self._held:
                raise UnavailableError(f"another call with idempotency key '{key}' begins its {self._noun}; try again")
            self._held.add((caller, key))
        try:
            yield
        finally:
            with self._lock:
                self._held.discard((caller, key))

    def _check_same(self, found: T, key: str, kind: str, spec: Message) -> None:
        """Raises NotTrainableError if work was begun by a call with another spec. The text names the fields."""
        differ = ["kind"] if found.request.kind != kind else []
        if not differ:
            try:
                before = type(spec).FromString((found.folder / SPEC).read_bytes())
            except (OSError, DecodeError):
                return
            old, new = ({field.name: value for field, value in one.ListFields()} for one in (before, spec))
            differ = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        if differ:
            raise NotTrainableError(
                f"idempotency_key: got '{key}', the key of {self._noun} '{found.id}', with another request; it differs "
                f"in {', '.join(differ)}"
            )


def keys_of_runs(runs: Runs) -> IdempotencyKeys[Run]:
    """Returns the keys of calls that begin runs. A run whose data hasn't come completely is begun anew."""

    def has_data(run: Run) -> bool:
        runs.abandon(run, "another call with its idempotency key has begun the run anew")
        return run.has_data

    return IdempotencyKeys("run", runs.table.find, has_data)
