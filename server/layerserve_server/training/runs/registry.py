"""Registry of a server's runs: admission, queue, execution, resuming, and publication of results."""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from layerserve_server.errors import (
    STOPPING,
    BusyError,
    NotTrainableError,
    RunElsewhereError,
    ServerError,
    UnavailableError,
    UnknownRunError,
    safe_text,
)
from layerserve_server.forking.fork_server import never
from layerserve_server.repository.layout import FoundVersion
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.training import budget, events, validation
from layerserve_server.training.dry_run import DryRun
from layerserve_server.training.events import Cancelled, EventLog, Failed, What
from layerserve_server.training.process.warm_parent import WarmParent
from layerserve_server.training.request import Kind, RunRequest
from layerserve_server.training.result import INTERRUPT, RunResult
from layerserve_server.training.runs import trace
from layerserve_server.training.runs.folder import BASE, BEST, CACHE, CHECKPOINTS, OUTCOME, RESULT, result_file
from layerserve_server.training.runs.run import RUN_ID, Phase, Run, new_id
from layerserve_server.training.runs.trace import RunTracer
from layerserve_server.training.upload import DATA

logger = logging.getLogger(__name__)

#: Command of a run's process; the run's folder is appended.
TRAINER = (sys.executable, "-m", "layerserve_server.training.process.main")
SERVER_STOPPED = "the server was stopped"
#: Folders that a run needs only while it can be resumed; removed at its end.
RESUME_FOLDERS = (DATA, BASE, CHECKPOINTS, BEST, CACHE)
#: Maximum delay between the signals of a shutdown to a training process and to the server, in seconds.
STOP_SECONDS = 0.5
#: Number of automatic resumes without progress after which a run fails: it might be what kills the server.
MAX_FUTILE = 3


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Limits on number, size and duration of runs; see the settings of the same names.

    `max_bytes` and `max_written` are in bytes, `cancel_grace_seconds` in seconds.
    """

    slots: int
    max_queued: int
    max_bytes: int
    max_kept: int
    cancel_grace_seconds: float
    auto_resume: bool = True
    max_workers: int = 1
    max_written: int = 16 << 30


class RunObserver(Protocol):
    """Receives the numbers and the progress of runs, for metrics."""

    def runs_changed(self, queued: int, running: int) -> None:
        """Called with the numbers of queued and of running runs after a change."""

    def run_progressed(self, model: str, epoch: int, step: int, loss: float | None) -> None:
        """Called after a step or an epoch of a run; epoch and step count from 1."""

    def run_ended(self, model: str, state: str) -> None:
        """Called after a run of a model ended in this state."""


class Runs:
    """The runs in a folder. Each training slot is a thread that executes one run after another in a process.

    Evaluations have a separate slot, so that they don't wait for hours of training. Several servers may share the
    folder; each run is owned by the server that holds its lock. Thread-safe.
    """

    def __init__(
        self,
        folder: Path,
        repository: Repository,
        dry_run: DryRun,
        limits: RunLimits,
        observer: RunObserver,
        command: Sequence[str],
        parent: WarmParent | None = None,
        tracer: RunTracer | None = None,
    ) -> None:
        """`command` executes the run whose folder is appended; with `parent`, runs are forked from that instead.

        `tracer` exports the spans of runs.
        """
        self._tracer = tracer
        self._folder = folder
        self._repository = repository
        self._dry_run = dry_run
        self._limits = limits
        self._observer = observer
        self._command = command
        self._parent = parent
        self._runs: dict[str, Run] = {}
        #: Runs that other servers own.
        self._elsewhere: dict[str, Run] = {}
        #: Ids of runs whose folders are being created.
        self._creating: set[str] = set()
        #: Whether the runs in the folder have been read at startup. Requests about runs are refused until then.
        self._scanned = False
        #: Held during a scan of the folder.
        self._scanning = threading.Lock()
        self._waiting: list[Run] = []
        self._beginning = 0
        self._stopping = False
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    # Lifecycle.

    def start(self) -> None:
        """Reads the runs in the folder, resumes interrupted ones, and starts the slots."""
        self._scan()
        self._scanned = True
        self._prune()
        self._report()
        for slot in range(self._limits.slots):
            self._spawn(f"training {slot}", lambda: self._work(Kind.TRAINING))
        if self._limits.slots:
            self._spawn("evaluation", lambda: self._work(Kind.EVALUATION))

    def stop(self) -> None:
        """Interrupts all runs. Running ones have `cancel_grace_seconds` to write a checkpoint.

        With `auto_resume` the next server resumes them; until then their state is still queued or running.
        """
        # Waits until no run is being taken over.
        with self._scanning, self._changed:
            self._stopping = True
            training = [run for run in self._runs.values() if run.phase is Phase.TRAINING]
            receiving = [run for run in self._runs.values() if run.phase is Phase.RECEIVING]
            waiting = [run for run in self._runs.values() if run.phase is Phase.WAITING]
            self._waiting.clear()
            for run in training:
                run.process.signal(INTERRUPT)
            self._changed.notify_all()
        for run in receiving:
            self._end(run, Failed(SERVER_STOPPED))
        for run in waiting:
            self._interrupt(run)
        for thread in self._threads:
            thread.join()
        self._dry_run.close()

    # Requests.

    def begin(self, request: RunRequest, base: LoadedVersion, gone: Callable[[], bool] = never) -> Run:
        """Validates a request against its base version and creates a run, in phase RECEIVING.

        Raises InvalidRequestError or a subclass if the request doesn't match the model, NotTrainableError if training
        is off or files can't be written, BusyError if the queue is full, TooLargeError if a limit is exceeded,
        ForbiddenPathError for a path outside of the data root, UnavailableError while starting or stopping, and
        CallCancelledError once `gone` returns True.
        """
        if not self._limits.slots:
            raise NotTrainableError("training is off on this server: it has no training slots")
        self._check_scanned()
        with self._changed:
            self._check_queue()
            self._beginning += 1
        try:
            validation.check_workers(request, self._limits.max_workers)
            request = validation.checked(
                request,
                base.model.input_specs,
                base.model.output_specs,
                self._limits.max_bytes,
                partial(self._dry_run.describe, gone=gone),
            )
            budget.check_room(request, self._folder, base.parameter_count, base.found.size)
            if request.publish:
                self._repository.check_writable(request.model)
            self._dry_run(base.found.path, request, base.parameter_count, gone)
            run = self._create(request, base.found)
        finally:
            with self._changed:
                self._beginning -= 1
        self._report()
        return run

    def _check_queue(self) -> None:
        """Raises BusyError if the queue is full, UnavailableError if the server is stopping. Called with the lock held.

        Runs that are still receiving data don't count, so a client that sends nothing doesn't block others.
        """
        if self._stopping:
            raise UnavailableError(STOPPING)
        queued = (Phase.WAITING, Phase.TRAINING)
        active = self._beginning + sum(run.phase in queued for run in self._runs.values())
        if active >= self._limits.slots + self._limits.max_queued:
            raise BusyError(f"{active} training runs are queued or running, the maximum", retry_after=10.0)

    def enqueue(self, run: Run) -> None:
        """Adds a run to the queue after its upload is complete. Does nothing if it isn't receiving data any more."""
        with self._changed:
            if run.phase is not Phase.RECEIVING:
                return
            self._queue(run)
        self._report()

    def _queue(self, run: Run) -> None:
        """Inserts a run after the queued runs of the same or a higher priority. Called with the lock held."""
        kind = run.request.kind
        busy = sum(one.phase is Phase.TRAINING and one.request.kind is kind for one in self._runs.values())
        before = [one for one in self._waiting if one.request.kind is kind and not _later(one, run)]
        slots = self._limits.slots if kind is Kind.TRAINING else 1
        events.append(run.folder, events.Queued(max(0, busy + len(before) - slots + 1)))
        run.log.refresh()
        run.phase = Phase.WAITING
        behind = next((index for index, one in enumerate(self._waiting) if _later(one, run)), len(self._waiting))
        self._waiting.insert(behind, run)
        # All threads, since only those of its kind can take it.
        self._changed.notify_all()

    def abandon(self, run: Run, reason: str) -> None:
        """Fails a run whose upload was aborted."""
        if run.phase is Phase.RECEIVING:
            self._end(run, Failed(reason))

    def cancel(self, run_id: str) -> Run:
        """Cancels a run and returns it. Does nothing if it has ended. Raises as `get` does."""
        run = self.get(run_id)
        with self._changed:
            if run.phase is Phase.TRAINING and run.cancelled_at is None:
                run.cancelled_at = time.monotonic()
                run.process.signal(signal.SIGTERM)
            if run.phase not in (Phase.RECEIVING, Phase.WAITING):
                return run
            if run in self._waiting:
                self._waiting.remove(run)
        self._end(run, Cancelled())
        return run

    def resume(self, run_id: str) -> Run:
        """Resumes an interrupted run and returns it. Does nothing if it is queued or running.

        Raises as `get` does, NotTrainableError if the run can't be resumed, BusyError if the queue is full.
        """
        run = self.get(run_id)
        with self._changed:
            if run.phase is not Phase.ENDED:
                return run
            if not run.resumable:
                raise NotTrainableError(
                    f"run '{run.id}' can't be resumed: it wasn't interrupted, its state is {run.state.value}"
                )
            self._check_queue()
            self._own(run)
            self._requeue(run)
        self._report()
        return run

    def _requeue(self, run: Run) -> None:
        """Adds an interrupted run to the queue again. Called with the lock held."""
        (run.folder / OUTCOME).unlink(missing_ok=True)
        run.process.forget()
        run.cancelled_at, run.overspent = None, ""
        self._queue(run)

    def delete(self, run_id: str) -> None:
        """Removes an ended run and its folder. Raises as `get` does, and NotTrainableError if it hasn't ended."""
        run = self.get(run_id)
        with self._changed:
            if run.phase is not Phase.ENDED or not run.log.ended:
                raise NotTrainableError(f"run '{run.id}' hasn't ended; cancel it first")
            # Another server may have resumed it.
            self._own(run)
        self._remove(run)

    def get(self, run_id: str, visible: Callable[[str], bool] = lambda model: True) -> Run:
        """Returns the run with this id. Runs of models that aren't `visible` don't exist.

        Raises UnknownRunError if there is none, RunElsewhereError if another server owns it, and UnavailableError until
        the runs have been read at startup.
        """
        self._check_scanned()
        with self._changed:
            run = self._runs.get(run_id)
        if run is not None and visible(run.request.model):
            return run
        # Another server may own it, or may have created it.
        if RUN_ID.fullmatch(run_id) and (self._folder / run_id).is_dir():
            self.scan()
        with self._changed:
            run = self._runs.get(run_id)
            elsewhere = self._elsewhere.get(run_id)
        if run is not None and visible(run.request.model):
            return run
        if elsewhere is not None and visible(elsewhere.request.model):
            raise _owned_elsewhere(elsewhere)
        raise UnknownRunError(f"no training run '{safe_text(run_id, 80)}'")

    def list_elsewhere(self, model: str = "") -> list[Run]:
        """Returns the runs, or those of one model, that other servers owned at the last scan, newest first."""
        runs = list(self._elsewhere.values())
        for run in runs:
            run.log.refresh()
        return _newest_first(runs, model)

    def list(self, model: str = "") -> list[Run]:
        """Returns the runs, or those of one model, that this server owns or that have ended, newest first.

        Raises UnavailableError until the runs have been read at startup.
        """
        self._check_scanned()
        with self._changed:
            return _newest_first(self._runs.values(), model)

    def _check_scanned(self) -> None:
        if not self._scanned:
            raise UnavailableError("the server is starting and hasn't read its runs yet; try again in a moment")

    def _own(self, run: Run) -> None:
        """Makes this server the owner of an ended run.

        Raises RunElsewhereError if another server owns it, and UnknownRunError if it was removed.
        """
        removed = UnknownRunError(f"training run '{run.id}' was removed")
        # This server owns an ended run only while it is removing it.
        if run.owned:
            raise removed
        try:
            owned = run.own()
        except OSError as error:
            raise removed from error
        if not owned:
            raise _owned_elsewhere(run)

    # Creating and finding runs.

    def _create(self, request: RunRequest, base: FoundVersion) -> Run:
        folder = self._folder / new_id()
        run = Run(folder.name, folder, request, EventLog(folder))
        with self._changed:
            self._creating.add(run.id)
        try:
            (folder / BASE).mkdir(parents=True)
            # First, so that no other server on this folder takes the run over.
            run.own()
            # A copy: the version may be replaced or removed while the run waits.
            for part in (base.path.name, *base.parts):
                (folder / BASE / part).parent.mkdir(exist_ok=True)
                shutil.copyfile(base.path.parent / part, folder / BASE / part, follow_symlinks=False)
            request.write(folder)
            events.append(folder, events.Accepted(request.model, request.version, request.sent_bytes))
            run.log.refresh()
        except OSError as error:
            run.disown()
            shutil.rmtree(folder, ignore_errors=True)
            raise NotTrainableError(f"the folder of runs can't be written: {error.strerror}") from error
        else:
            with self._changed:
                self._runs[run.id] = run
        finally:
            with self._changed:
                self._creating.discard(run.id)
        return run

    def scan(self) -> None:
        """Scans the folder for runs of other servers, and takes over those whose server is gone."""
        if self._scanned and self._scan():
            self._prune()
            self._report()

    def _scan(self) -> bool:
        """Scans the folder. Returns whether new runs were added."""
        with self._scanning:
            with self._changed:
                if self._stopping:
                    return False
                ended = [run for run in self._runs.values() if run.phase is Phase.ENDED]
            try:
                names = {path.name for path in self._folder.iterdir() if RUN_ID.fullmatch(path.name)}
            except OSError:
                return False
            # Another server may have removed or resumed an ended run.
            changed = [run for run in ended if run.id not in names or (run.resumable and run.is_active_again())]
            with self._changed:
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
            run = known or Run.read(self._folder / name)
            owned = run.log.ended or run.own()
            # It may have ended since it was read.
            run.log.refresh()
        except (OSError, ValueError, KeyError, TypeError):
            # After startup it is most likely a run that another server is creating.
            if not self._scanned:
                logger.warning("can't read a run from its folder", extra={"run": name})
            return None
        if not owned and not run.log.ended:
            if known is None:
                logger.info("the run is owned by another server", extra={"run": name, "server": run.owner})
            return run
        with self._changed:
            self._runs[name] = run
        if run.log.ended:
            run.phase = Phase.ENDED
            run.disown()
        else:
            self._adopt(run)
        return None

    def _adopt(self, run: Run) -> None:
        """Continues a run of an earlier server, whose process may be alive or have ended."""
        result = RunResult.read(run.folder)
        if run.process.lives or (result is not None and not result.stopped):
            run.phase = Phase.TRAINING
            logger.info("attached to a run that an earlier server process started", extra={"run": run.id})
            self._spawn(f"run {run.id}", lambda: self._execute(run, launch=False))
        elif run.log.newest(events.Queued) is None:
            self._end(run, Failed(f"{SERVER_STOPPED} before all data was received"))
        elif not self._limits.auto_resume or not self._limits.slots:
            self._end(run, Failed(SERVER_STOPPED, *run.position, resumable=True))
        elif run.futile >= MAX_FUTILE:
            reason = f"{SERVER_STOPPED}, {run.futile} times without progress of this run"
            self._end(run, Failed(reason, *run.position, resumable=True))
        else:
            logger.info("resuming a run", extra={"run": run.id})
            with self._changed:
                self._requeue(run)

    # Execution.

    def _spawn(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, kind: Kind) -> None:
        while True:
            with self._changed:
                while not (found := [run for run in self._waiting if run.request.kind is kind]) and not self._stopping:
                    self._changed.wait()
                if self._stopping:
                    return
                run = found[0]
                self._waiting.remove(run)
                run.phase = Phase.TRAINING
            self._report()
            self._execute(run, launch=True)

    def _execute(self, run: Run, *, launch: bool) -> None:
        """Executes a run to its end. Without `launch` its process has been started by an earlier server."""
        try:
            if launch:
                self._launch(run)
            self._watch(run)
            self._conclude(run)
        except Exception:
            logger.exception("the run failed with an internal error", extra={"run": run.id})
            run.process.signal(signal.SIGKILL)
            self._end(run, Failed("internal error; see the server's log", *run.position))

    def _launch(self, run: Run) -> None:
        # Not forked with workers, which torchrun starts, nor on a GPU: CUDA can't be initialized again after a fork.
        forkable = run.request.workers == 1 and run.request.device == "cpu"
        parent = self._parent if forkable else None
        run.process.start(self._command, run.request.threads, parent, trace.variables(run.folder))
        with self._changed:
            if run.cancelled_at is not None or self._stopping:
                run.process.signal(INTERRUPT if run.cancelled_at is None else signal.SIGTERM)

    def _watch(self, run: Run) -> None:
        """Follows a run's process until it ends. Kills it if it doesn't stop in time or exceeds its budget."""
        watch = budget.Watch(run.request.budget, run.folder, self._limits.max_written)
        stopping_at: float | None = None
        while True:
            alive = run.process.wait()
            self._follow(run)
            if not alive:
                return
            if self._stopping and stopping_at is None:
                stopping_at = time.monotonic()
            stops = [at for at in (run.cancelled_at, stopping_at) if at is not None]
            if stops and time.monotonic() - min(stops) > self._limits.cancel_grace_seconds:
                run.process.signal(signal.SIGKILL)
            if not run.overspent:
                run.overspent = watch.overspent(run.process.pid, run.seconds if run.request.budget.max_seconds else 0.0)
                if run.overspent:
                    run.process.signal(signal.SIGKILL)

    def _follow(self, run: Run) -> None:
        for event in run.log.refresh():
            if isinstance(event.what, events.Started):
                self._report()
            if isinstance(event.what, (events.Step, events.Epoch)):
                step = event.what.step if isinstance(event.what, events.Step) else 0
                loss = event.what.logs.get("loss")
                self._observer.run_progressed(run.request.model, event.what.epoch, step, loss)

    # Ending.

    def _conclude(self, run: Run) -> None:
        """Ends a run whose process has ended: publishes its result, or records why there is none."""
        result = RunResult.read(run.folder)
        if run.cancelled_at is not None:
            self._end(run, Cancelled(run.position[0]))
        elif run.overspent:
            self._end(run, Failed(f"the run was ended: {run.overspent}", *run.position))
        elif result is None or result.stopped:
            if self._stops_soon():
                self._interrupt(run)
                return
            signalled = "the training process was stopped by a signal that the server didn't send"
            interrupted = result is not None or not run.process.ended_by_itself
            self._end(run, Failed(signalled if result else run.process.death, *run.position, resumable=interrupted))
        elif result.kind == "failed":
            self._end(run, Failed(safe_text(result.reason), result.epoch, result.step, result.resumable))
        else:
            self._finish(run, result)

    def _stops_soon(self) -> bool:
        """Whether the server is stopping, now or within STOP_SECONDS.

        If a whole process group is signalled, the training process may receive the signal first.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._stopping, STOP_SECONDS)

    def _interrupt(self, run: Run) -> None:
        """Leaves a run to the next server, or fails it without `auto_resume`: this server is stopping."""
        if not self._limits.auto_resume:
            self._end(run, Failed(SERVER_STOPPED, *run.position, resumable=True))
            return
        with self._changed:
            run.phase = Phase.ENDED
        run.disown()

    def _finish(self, run: Run, result: RunResult) -> None:
        request = run.request
        version = 0
        if request.publish and not result.withheld and request.kind is Kind.TRAINING:
            try:
                version = self._repository.publish_once(
                    request.model,
                    result_file(run.folder),
                    run=run.id,
                    base_version=request.version,
                    label=request.publish_label or "",
                )
            except ServerError as error:
                self._end(run, Failed(str(error), result.epoch))
                return
        seconds = run.seconds if run.resumed else result.seconds
        self._end(run, events.Finished(version, result.logs, seconds, safe_text(result.withheld)))

    def _end(self, run: Run, what: What) -> None:
        with self._changed:
            if run.phase is Phase.ENDED:
                return
            run.phase = Phase.ENDED
        state = type(what).__name__.lower()
        self._observer.run_ended(run.request.model, state)
        self._report()
        reason = {"reason": what.reason} if isinstance(what, Failed) else {}
        logger.info("a run ended", extra={"run": run.id, "state": state, **reason})
        if not (isinstance(what, Failed) and what.resumable):
            published = isinstance(what, events.Finished) and what.version
            for name in (*RESUME_FOLDERS, RESULT) if published else RESUME_FOLDERS:
                shutil.rmtree(run.folder / name, ignore_errors=True)
        # The event comes last, so that files and versions are in place when clients receive it. Under the lock, so that
        # a request to resume or delete the run right afterwards doesn't find it still owned by this server.
        with self._changed:
            try:
                events.append(run.folder, what)
                run.log.refresh()
            except OSError as error:
                logger.error("can't write the last event of the run: %s", error.strerror, extra={"run": run.id})
                run.log.put(what)
            if self._tracer is not None:
                trace.export(self._tracer, run)
            run.disown()
        self._prune()

    def _prune(self) -> None:
        """Removes the oldest ended runs in excess of `max_kept`."""
        with self._changed:
            ended = [run for run in _newest_first(self._runs.values()) if run.log.ended]
        for run in ended[self._limits.max_kept :]:
            with contextlib.suppress(RunElsewhereError, UnknownRunError):
                self._own(run)
                self._remove(run)

    def _remove(self, run: Run) -> None:
        """Removes a run, whose lock is held, and its folder."""
        with self._changed:
            self._runs.pop(run.id, None)
        shutil.rmtree(run.folder, ignore_errors=True)
        run.disown()

    def _report(self) -> None:
        with self._changed:
            phases = [run.phase for run in self._runs.values()]
        self._observer.runs_changed(
            phases.count(Phase.RECEIVING) + phases.count(Phase.WAITING), phases.count(Phase.TRAINING)
        )


def _later(one: Run, other: Run) -> bool:
    """Whether a queued run is executed after another one that was queued later."""
    return one.request.priority < other.request.priority


def _newest_first(runs: Iterable[Run], model: str = "") -> list[Run]:
    """Sorts runs by time of creation, newest first; only those of one model if it isn't empty."""
    chosen = [run for run in runs if model in ("", run.request.model)]
    return sorted(chosen, key=lambda run: (run.created_time, run.id), reverse=True)


def _owned_elsewhere(run: Run) -> RunElsewhereError:
    return RunElsewhereError(f"run '{run.id}' is owned by another server on this repository: {run.owner}")
