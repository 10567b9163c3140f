"""The runs of a server, and their folders: creating, finding, listing, owning and removing runs."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from layerserve_server import folder_owner
from layerserve_server.errors import (
    BusyError,
    NotTrainableError,
    RunElsewhereError,
    UnavailableError,
    UnknownCheckpointError,
    UnknownRunError,
    safe_text,
)
from layerserve_server.folder_owner import remove_folder
from layerserve_server.records import DAMAGED, log_damaged
from layerserve_server.repository.layout import FoundVersion
from layerserve_server.training import events
from layerserve_server.training.event_log import EventLog
from layerserve_server.training.events import Failed
from layerserve_server.training.from_checkpoint import Start
from layerserve_server.training.process.run_process import MakeProcess
from layerserve_server.training.process.training_process import TrainingProcess
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.layout import BASE
from layerserve_server.training.run_kind import RunKinds
from layerserve_server.training.runs.run import RUN_ID, Phase, Run, new_id

if TYPE_CHECKING:
    from layerserve_server.observability.metrics import Metrics

logger = logging.getLogger(__name__)


class Requested(Protocol):
    """Work that a caller has begun."""

    @property
    def request(self) -> RunRequest: ...


T = TypeVar("T", bound=Requested)


class RunTable:
    """The runs in a folder, which several servers may share. Thread-safe.

    A run is owned by the server that holds its lock. Those that other servers own are listed, but not returned.
    """

    def __init__(
        self,
        folder: Path,
        max_kept: int,
        observer: Metrics,
        kinds: RunKinds,
        make_process: MakeProcess = TrainingProcess,
    ) -> None:
        """`max_kept` is the number of ended runs of a caller that are kept.

        `make_process` returns a handle of a run's process.
        """
        self.folder = folder
        self._kinds = kinds
        self._make_process = make_process
        #: Goes on with a run of a server that is gone.
        self.adopt: Callable[[Run], None] = lambda run: None
        #: Held while the phase of a run, the queue or `stopping` change; notified after changes.
        self.changed = threading.Condition()
        #: Whether the server is stopping: no run is taken over or begun any more.
        self.stopping = False
        self._max_kept = max_kept
        self._observer = observer
        self._runs: dict[str, Run] = {}
        #: Runs that other servers own.
        self._elsewhere: dict[str, Run] = {}
        #: Ids of runs whose folders are being created.
        self._creating: set[str] = set()
        #: Whether the runs in the folder have been read at startup, and the folder was ever listed. Requests about runs
        #: are refused until then.
        self._scanned = self._listed = False
        #: Held during a scan of the folder.
        self._scanning = threading.Lock()

    # Runs in memory.

    def get(self, run_id: str, visible: Callable[[RunRequest], bool] = lambda request: True) -> Run:
        """Returns the run with this id, which is looked for in the folder if it isn't known yet.

        Runs whose request isn't `visible` don't exist. Raises UnknownRunError if there is none, RunElsewhereError if
        another server owns it, and UnavailableError until the runs have been read at startup.
        """
        self.check_scanned()
        with self.changed:
            run = self._runs.get(run_id)
        if run is not None and visible(run.request):
            return run
        # Another server may own it, or may have created it.
        if RUN_ID.fullmatch(run_id) and os.path.isdir(self.folder / run_id):
            self.scan()
        with self.changed:
            run = self._runs.get(run_id)
            elsewhere = self._elsewhere.get(run_id)
        if run is not None and visible(run.request):
            return run
        if elsewhere is not None and visible(elsewhere.request):
            raise _owned_elsewhere(elsewhere)
        raise UnknownRunError(f"no training run '{safe_text(run_id, 80)}'")

    def list_all(self, model: str = "") -> dict[str, Run]:
        """Returns the runs, or those of one model, by id, also those that other servers owned at the last scan.

        Raises UnavailableError until the runs have been read at startup.
        """
        # In this order: a run that is taken over in between is in both, rather than in neither.
        elsewhere = {run.id: run for run in self._elsewhere.values() if model in ("", run.request.model)}
        for run in elsewhere.values():
            with contextlib.suppress(*DAMAGED):
                run.log.refresh()
        return elsewhere | {run.id: run for run in self.list(model)}

    def is_elsewhere(self, run: Run) -> bool:
        """Whether another server owns a run."""
        return run.id not in self._runs

    def find(self, caller: str, key: str, visible: Callable[[RunRequest], bool]) -> Run | None:
        """Returns the newest run with an idempotency key of a caller that has its data, or still may get it.

        Runs whose request isn't `visible` don't exist. Raises RunElsewhereError if another server owns it, and
        UnavailableError until the runs have been read.
        """
        found = self._find(caller, key, visible)
        if found is None:
            # Another server may have begun it, and ended.
            self.scan()
            found = self._find(caller, key, visible)
        return found

    def _find(self, caller: str, key: str, visible: Callable[[RunRequest], bool]) -> Run | None:

        def fits(run: Run) -> bool:
            request = run.request
            named = (request.idempotency_key, request.caller) == (key, caller) and visible(request)
            return named and (run.has_data or not run.log.ended)

        self.check_scanned()
        with self.changed:
            found = next(filter(fits, _newest_first(self._runs.values())), None)
            elsewhere = next(filter(fits, self._elsewhere.values()), None)
        if found is None and elsewhere is not None:
            raise _owned_elsewhere(elsewhere)
        return found

    def in_phase(self, *phases: Phase) -> list[Run]:
        """Returns the runs in these phases. Called with the lock held."""
        return [run for run in self._runs.values() if run.phase in phases]

    def list(self, model: str = "") -> list[Run]:
        """Returns the runs, or those of one model, that this server owns or that have ended, newest first.

        Raises UnavailableError until the runs have been read at startup.
        """
        self.check_scanned()
        with self.changed:
            return _newest_first(self._runs.values(), model)

    def report(self) -> None:
        """Passes the numbers of queued, running and paused runs to the observer."""
        with self.changed:
            queued = len(self.in_phase(Phase.RECEIVING, Phase.WAITING))
            running, paused = len(self.in_phase(Phase.TRAINING)), len(self.in_phase(Phase.PAUSED))
        self._observer.runs_changed(queued, running, paused)

    def check_scanned(self) -> None:
        """Raises UnavailableError until the runs have been read at startup, and if the folder can't be read then."""
        if not self._scanned:
            raise UnavailableError("the server is starting and hasn't read its runs yet; try again in a moment")
        if not self._listed:
            raise UnavailableError("the folder of runs can't be read; see the server's log")

    # Runs on disk.

    def create(self, request: RunRequest, base: FoundVersion, start: Start | None = None, kept_back: str = "") -> Run:
        """Creates a run that this server owns, with the files of its base version, or those of the run of `start`.

        `kept_back` is why the version that it publishes won't be the default.

        Raises NotTrainableError if its files can't be written, UnknownCheckpointError if the checkpoint is gone.
        """
        folder = self.folder / new_id()
        kind = self._kinds[request.kind]
        run = Run(folder.name, folder, request, EventLog(folder), kind, make_process=self._make_process)
        with self.changed:
            self._creating.add(run.id)
        try:
            folder.mkdir(parents=True)
            # First, so that no other server on this folder takes the run over.
            run.own()
            if start is None:
                copy_version(base, folder / BASE)
            else:
                start.copy(folder)
            request.write(folder)
            run.log.write(events.Accepted(request.model, request.version, request.sent_bytes, kept_back))
        except UnknownCheckpointError:
            self._discard(run)
            raise
        except OSError as error:
            self._discard(run)
            raise NotTrainableError(f"the folder of runs can't be written: {error.strerror}") from error
        else:
            with self.changed:
                self._runs[run.id] = run
        finally:
            with self.changed:
                self._creating.discard(run.id)
        return run

    def _discard(self, run: Run) -> None:
        """Removes the folder of a run that couldn't be created."""
        remove_folder(run.folder)
        run.disown()

    def own(self, run: Run) -> None:
        """Makes this server the owner of an ended run.

        Raises RunElsewhereError if another server owns it, UnknownRunError if it was removed, and BusyError if another
        call changes it.
        """
        removed = UnknownRunError(f"training run '{run.id}' was removed")
        # This server owns an ended run only while it publishes, changes or removes it.
        if run.owned:
            with self.changed:
                if run.id in self._runs:
                    raise BusyError(f"run '{run.id}' is being changed by another call", retry_after=1.0)
            raise removed
        try:
            owned = run.own()
        except OSError as error:
            raise removed from error
        if not owned:
            raise _owned_elsewhere(run)

    def remove(self, run: Run) -> None:
        """Removes a run, whose lock is held, and its folder."""
        # First the folder, in which a scan would find it again.
        remove_folder(run.folder)
        with self.changed:
            self._runs.pop(run.id, None)
        run.disown()

    def prune(self) -> None:
        """Removes the oldest ended runs of each caller in excess of `max_kept`."""
        with self.changed:
            ended = [run for run in _newest_first(self._runs.values()) if run.log.ended]
        for run in in_excess(ended, self._max_kept):
            # One of an extension that isn't there hasn't ended on disk.
            if run.awaited or run.kind.name not in self._kinds:
                continue
            with contextlib.suppress(RunElsewhereError, UnknownRunError, BusyError):
                self.own(run)
                self.remove(run)

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Holds the lock within the block, while no run is being taken over."""
        with self._scanning, self.changed:
            yield

    # Runs of other servers.

    def scan_first(self) -> None:
        """Reads the runs in the folder at startup. Those that go on are passed to `adopt`."""
        folder_owner.sweep(self.folder)
        self._scan()
        self._scanned = True
        self.prune()
        self.report()

    def scan(self) -> None:
        """Scans the folder for runs of other servers. Takes over those whose server is gone: passes them to `adopt`."""
        if self._scanned and self._scan():
            self.prune()
            self.report()

    def _scan(self) -> bool:
        """Scans the folder. Returns whether new runs were added."""
        with self._scanning:
            with self.changed:
                if self.stopping:
                    return False
                ended = self.in_phase(Phase.ENDED)
            try:
                names = {path.name for path in self.folder.iterdir() if RUN_ID.fullmatch(path.name)}
            except FileNotFoundError:
                self._listed = True
                return False
            except OSError as error:
                log_damaged(self.folder, error)
                return False
            self._listed = True
            # Another server may have removed or resumed an ended run.
            changed = [run for run in ended if run.id not in names or (run.resumable and run.is_active_again())]
            with self.changed:
                for run in changed:
                    if run.phase is Phase.ENDED:
                        self._runs.pop(run.id, None)
                known = {*self._runs, *self._creating}
            taken = [self._take(name, self._elsewhere.get(name)) for name in sorted(names - known)]
            self._elsewhere = {run.id: run for run in taken if run is not None}
            return not known.issuperset(self._runs)

    def _take(self, name: str, known: Run | None) -> Run | None:
        """Takes over the run in a folder and returns None; returns the run if another server owns it.

        `known` is the run if another server owned it at the last scan.
        """
        try:
            run = known or Run.read(self.folder / name, self._kinds, self._make_process)
            owned = run.log.ended or run.own()
            # It may have ended since it was read.
            run.log.refresh()
        except DAMAGED as error:
            # After startup it is most likely a run that another server is creating.
            if not self._scanned:
                logger.warning("can't read a run from its folder: %s", safe_text(str(error)), extra={"run": name})
            return None
        if not owned and not run.log.ended:
            if known is None:
                logger.info("the run is owned by another server", extra={"run": name, "server": run.owner})
            return run
        with self.changed:
            self._runs[name] = run
        if run.log.ended:
            run.phase = Phase.ENDED
            run.disown()
            return None
        try:
            self.adopt(run)
        except DAMAGED as error:
            # Others must not be lost with it.
            self.set_aside(run, Failed(f"the files of the run are damaged: {safe_text(str(error))}"))
        return None

    @staticmethod
    def set_aside(run: Run, what: Failed) -> None:
        """Leaves a run on disk as it is. For this server it has ended with this event."""
        logger.warning("can't go on with a run: %s", what.reason, extra={"run": run.id})
        run.phase = Phase.ENDED
        run.log.put(what)
        run.disown()


def copy_version(version: FoundVersion, folder: Path) -> None:
    """Copies the files of a version, which may be replaced or removed while a run needs them. Raises OSError."""
    for part in (version.path.name, *version.parts):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(version.path.parent / part, folder / part, follow_symlinks=False)


def in_excess(newest_first: Iterable[T], most: int) -> list[T]:
    """Returns the oldest work of each caller in excess of a number: none is removed for that of another."""
    kept, excess = Counter[str](), []
    for one in newest_first:
        kept[one.request.caller] += 1
        if kept[one.request.caller] > most:
            excess.append(one)
    return excess


def _newest_first(runs: Iterable[Run], model: str = "") -> list[Run]:
    """Sorts runs by time of creation, newest first; only those of one model if it isn't empty."""
    chosen = [run for run in runs if model in ("", run.request.model)]
    return sorted(chosen, key=lambda run: (run.created_time, run.id), reverse=True)


def _owned_elsewhere(run: Run) -> RunElsewhereError:
    return RunElsewhereError(f"run '{run.id}' is owned by another server on this repository: {run.owner}")
