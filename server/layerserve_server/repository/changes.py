"""Changes of the repository by calls: one at a time, taken over by all processes, and noted in the audit log."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from layerserve_server.errors import BusyError, RefusedChangeError, ServerError, safe_text
from layerserve_server.repository.audit import AuditLog
from layerserve_server.repository.entry import Description
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.staging import check_name

logger = logging.getLogger(__name__)

#: Maximum number of changes that wait for one another; more would occupy the threads of other calls.
MAX_WAITING: Final = 8
#: Time after which a refused caller may retry, in seconds.
RETRY_SECONDS: Final = 2.0

#: Has the other processes scan a model, and returns those in which it isn't as it is here, each with the reason.
Follow = Callable[[str], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Change:
    """A model after a change: its versions, newest first, and the processes that lag behind, with the reasons.

    `differences` are those of an uploaded version from the default before (see `differences`).
    """

    versions: Sequence[Description]
    lagging: Sequence[str]
    differences: Sequence[str] = ()


class Changes:
    """Has changes made one after another. `who` is the name of the caller, for the audit log."""

    def __init__(self, repository: Repository, audit: AuditLog, follow: Follow = lambda name: ()) -> None:
        self._repository = repository
        self._audit = audit
        self.follow = follow
        self._waiting = threading.BoundedSemaphore(MAX_WAITING)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def make(self, who: str, action: str, name: str, **details: Any) -> Iterator[dict[str, Any]]:
        """Makes a change within the block, and audits it. Yields the record, to which the block may add.

        Raises BusyError if too many changes wait, and RefusedChangeError if the disk can't be written.
        """
        if not self._waiting.acquire(blocking=False):
            raise BusyError(f"{MAX_WAITING} changes of the repository are waiting, which is the limit", RETRY_SECONDS)
        try:
            with self._lock:
                record: dict[str, Any] = {"who": who, "action": action, "model": safe_text(name, 150), **details}
                try:
                    self._audit.check_writable()
                except OSError as error:
                    raise RefusedChangeError(f"the audit log can't be written: {error.strerror}") from error
                try:
                    check_name(name)
                    self._repository.publisher.check_changeable(name)
                    yield record
                except BaseException as error:
                    self._note(record, _outcome(error))
                    raise
                self._note(record, "done")
        finally:
            self._waiting.release()

    def made(self, name: str) -> Change:
        """Has the other processes follow a change of a model, and returns what has become of it."""
        lagging = self.follow(name)
        return Change(self._repository.catalogue.describe(name), lagging)

    def note_run(self, name: str, run: str, version: int, error: ServerError | None) -> None:
        """Audits the version that a run has published (0: none), and has the other processes follow."""
        record = {"who": f"run {run}", "action": "publish", "model": name, "version": version}
        self._note(record, "done" if error is None else _outcome(error))
        for text in self.follow(name):
            logger.warning("version %d of model '%s' isn't in effect in %s", version, name, text)

    def note_refused(self, who: str, action: str, name: str, error: Exception) -> None:
        """Audits a change that was refused before it was its turn."""
        self._note({"who": who, "action": action, "model": safe_text(name, 150)}, _outcome(error))

    def _note(self, record: dict[str, Any], outcome: str) -> None:
        try:
            self._audit.write(**record, outcome=outcome)
        except OSError as error:
            # The change has been made, so its call doesn't fail.
            logger.error("can't write the audit log: %s", error.strerror, extra={**record, "outcome": outcome})


def _outcome(error: BaseException) -> str:
    if isinstance(error, ServerError):
        return f"{error.reason}: {safe_text(str(error))}"
    return f"internal: {type(error).__name__}"
