"""All runs of a server: who may start, who waits, who trains, who goes on, and what becomes of the results."""

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
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.training import budget, events, validation
from layerserve_server.training.dry_run import DryRun
from layerserve_server.training.events import Cancelled, EventLog, Failed, What
from layerserve_server.training.process.warm_parent import WarmParent
from layerserve_server.training.request import Kind, RunRequest
from layerserve_server.training.result import INTERRUPT, RunResult
from layerserve_server.training.runs.folder import BASE, BEST, CHECKPOINTS, OUTCOME, RESULT, result_file
from layerserve_server.training.runs.run import RUN_ID, Phase, Run, new_id
from layerserve_server.training.upload import DATA

logger = logging.getLogger(__name__)

#: The command that trains the run whose folder is appended to it.
TRAINER = (sys.executable, "-m", "layerserve_server.training.process.main")
SERVER_STOPPED = "the server was stopped"
#: What a run needs to go on, and nobody afterwards.
MEANS = (DATA, BASE, CHECKPOINTS, BEST)
#: How long after its training process a server may hear that it is to stop, in seconds.
STOP_SECONDS = 0.5
#: Times that a run is resumed at the same place by itself: what never gets further would only kill the server again.
MAX_FUTILE = 3


@dataclass(frozen=True, slots=True)
class RunLimits:
    """How many runs, how large, and how long they are waited for; see the settings of the same names."""

    slots: int
    max_queued: int
    max_bytes: int
    max_kept: int
    cancel_grace_seconds: float
    auto_resume: bool = True
    max_workers: int = 1
    max_written: int = 16 << 30


class RunObserver(Protocol):
    """What is told about runs: metrics."""

    def runs_changed(self, queued: int, running: int) -> None:
        """So many runs wait, and so many train."""

    def run_progressed(self, model: str, epoch: int, step: int, loss: float | None) -> None:
        """A run of a model made a step."""

    def run_ended(self, model: str, state: str) -> None:
        """A run of a model ended."""


class Runs:
    """The runs below a folder. Each slot is a thread that starts a process for one run after another.

    Evaluations have a slot of their own, so that they don't wait for hours of training. Several servers may share the
    folder: each run has one that looks after it, by holding its lock.
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
    ) -> None:
        """`rehearse` tries a request, `command` trains the run whose folder is appended to it.

        Runs are forked from `parent`, which does the same, if there is one.
        """
        self._folder = folder
        self._repository = repository
        self._rehearse = dry_run
        self._limits = limits
        self._observer = observer
        self._command = command
        self._parent = parent
        self._runs: dict[str, Run] = {}
        #: Runs that other servers look after.
        self._elsewhere: dict[str, Run] = {}
        #: Names of the folders of runs that are being made.
        self._making: set[str] = set()
        #: Whether the runs that were there at the start are known: until then nothing is said of any.
        self._found = False
        #: Around a look at the folder.
        self._looking = threading.Lock()
        self._waiting: list[Run] = []
        self._beginning = 0
        self._stopping = False
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    # Life.

    def start(self) -> None:
        """Finds the runs of servers before this one, and takes new ones."""
        self._look()
        self._found = True
        self._prune()
        self._tell()
        for slot in range(self._limits.slots):
            self._spawn(f"training {slot}", lambda: self._work(Kind.TRAINING))
        if self._limits.slots:
            self._spawn("evaluation", lambda: self._work(Kind.EVALUATION))

    def stop(self) -> None:
        """Interrupts every run: those that train have `cancel_grace_seconds` to leave a checkpoint.

        With `auto_resume` the next server goes on with them, and until then they count as under way.
        """
        # Not while a run is being taken over.
        with self._looking, self._changed:
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
        self._rehearse.close()

    # For requests.

    def begin(self, request: RunRequest, base: LoadedVersion) -> Run:
        """Makes a run of a request that fits its base version; then its data may come.

        Raises NotTrainableError, BusyError, UnavailableError, TooLargeError, ForbiddenPathError, or an
        InvalidRequestError that says what doesn't fit.
        """
        if not self._limits.slots:
            raise NotTrainableError("this server doesn't train: it has no training slots")
        self._check_found()
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
                self._rehearse.describe,
            )
            budget.check_room(request, self._folder, base.parameter_count, base.found.size)
            if request.publish:
                self._repository.check_writable(request.model)
            self._rehearse(base.found.path, request, base.parameter_count)
            run = self._make(request, base.found.path)
        finally:
            with self._changed:
                self._beginning -= 1
        self._tell()
        return run

    def _check_queue(self) -> None:
        """Raises BusyError or UnavailableError where no run may be added. To be called with the lock.

        Runs whose data still comes have no place in the queue: one whose client sends nothing keeps none from others.
        """
        if self._stopping:
            raise UnavailableError(STOPPING)
        queued = (Phase.WAITING, Phase.TRAINING)
        active = self._beginning + sum(run.phase in queued for run in self._runs.values())
        if active >= self._limits.slots + self._limits.max_queued:
            raise BusyError(f"{active} training runs are under way, which is all that may wait", retry_after=10.0)

    def enqueue(self, run: Run) -> None:
        """All data of the run has come: it waits for a slot."""
        with self._changed:
            if run.phase is not Phase.RECEIVING:
                return
            self._queue(run)
        self._tell()

    def _queue(self, run: Run) -> None:
        """Puts a run behind those that wait and are as urgent. To be called with the lock."""
        kind = run.request.kind
        busy = sum(one.phase is Phase.TRAINING and one.request.kind is kind for one in self._runs.values())
        before = [one for one in self._waiting if one.request.kind is kind and not _later(one, run)]
        slots = self._limits.slots if kind is Kind.TRAINING else 1
        events.append(run.folder, events.Queued(max(0, busy + len(before) - slots + 1)))
        run.log.refresh()
        run.phase = Phase.WAITING
        behind = next((place for place, one in enumerate(self._waiting) if _later(one, run)), len(self._waiting))
        self._waiting.insert(behind, run)
        # All, as only the threads of its kind can take it.
        self._changed.notify_all()

    def abandon(self, run: Run, reason: str) -> None:
        """The run's data won't come."""
        if run.phase is Phase.RECEIVING:
            self._end(run, Failed(reason))

    def cancel(self, run_id: str) -> Run:
        """Stops a run; one that has ended stays as it is. Raises what `get` raises."""
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
        """Goes on with a run that was interrupted; one that is under way stays as it is.

        Raises what `get` raises, NotTrainableError for a run that ended otherwise, and BusyError.
        """
        run = self.get(run_id)
        with self._changed:
            if run.phase is not Phase.ENDED:
                return run
            if not run.resumable:
                raise NotTrainableError(
                    f"run '{run.id}' can't be resumed: it was not interrupted, it {run.state.value}"
                )
            self._check_queue()
            self._own(run)
            self._requeue(run)
        self._tell()
        return run

    def _requeue(self, run: Run) -> None:
        """Lets an interrupted run wait for a slot again. To be called with the lock."""
        (run.folder / OUTCOME).unlink(missing_ok=True)
        run.process.forget()
        run.cancelled_at, run.overspent = None, ""
        self._queue(run)

    def delete(self, run_id: str) -> None:
        """Removes a run that has ended. Raises what `get` raises, and NotTrainableError for one that is under way."""
        run = self.get(run_id)
        with self._changed:
            if run.phase is not Phase.ENDED or not run.log.ended:
                raise NotTrainableError(f"run '{run.id}' is under way; cancel it first")
            # Another server may have resumed it.
            self._own(run)
        self._remove(run)

    def get(self, run_id: str) -> Run:
        """The run with this id.

        Raises UnknownRunError, RunElsewhereError for a run that another server looks after, and UnavailableError until
        the runs have been found.
        """
        self._check_found()
        with self._changed:
            run = self._runs.get(run_id)
        if run is not None:
            return run
        # It may be of another server, or have been.
        if RUN_ID.fullmatch(run_id) and (self._folder / run_id).is_dir():
            self.look()
        with self._changed:
            run = self._runs.get(run_id)
            elsewhere = self._elsewhere.get(run_id)
        if run is not None:
            return run
        if elsewhere is not None:
            raise _of_another_server(elsewhere)
        raise UnknownRunError(f"no training run '{safe_text(run_id, 80)}'")

    def list_elsewhere(self, model: str = "") -> list[Run]:
        """All runs that other servers looked after at the last look, or those of one model, newest first."""
        runs = list(self._elsewhere.values())
        for run in runs:
            run.log.refresh()
        return _newest_first(runs, model)

    def list(self, model: str = "") -> list[Run]:
        """All runs that this server looks after or that have ended, or those of one model, newest first.

        Raises UnavailableError until the runs have been found.
        """
        self._check_found()
        with self._changed:
            return _newest_first(self._runs.values(), model)

    def _check_found(self) -> None:
        if not self._found:
            raise UnavailableError("the server is starting, and hasn't found its runs yet; try again in a moment")

    def _own(self, run: Run) -> None:
        """Takes an ended run's lock. Raises RunElsewhereError, and UnknownRunError for one that was removed."""
        try:
            # This server owns an ended run only while it removes it.
            if run.owned:
                raise FileNotFoundError(run.folder)
            owned = run.own()
        except OSError as error:
            raise UnknownRunError(f"training run '{run.id}' was removed") from error
        if not owned:
            raise _of_another_server(run)

    # Making and finding.

    def _make(self, request: RunRequest, base: Path) -> Run:
        folder = self._folder / new_id()
        run = Run(folder.name, folder, request, EventLog(folder))
        with self._changed:
            self._making.add(run.id)
        try:
            (folder / BASE).mkdir(parents=True)
            # First of all, so that no other server on this folder takes the run for one that was left behind.
            run.own()
            # A copy: the version may be replaced or removed while the run waits.
            shutil.copyfile(base, folder / BASE / base.name)
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
                self._making.discard(run.id)
        return run

    def look(self) -> None:
        """Looks at the folder once more, as other servers may share it: takes over the runs of one that is gone."""
        if self._found and self._look():
            self._prune()
            self._tell()

    def _look(self) -> bool:
        """Takes note of runs that weren't there before; gives whether there are any."""
        with self._looking:
            with self._changed:
                if self._stopping:
                    return False
                ended = [run for run in self._runs.values() if run.phase is Phase.ENDED]
            try:
                names = {path.name for path in self._folder.iterdir() if RUN_ID.fullmatch(path.name)}
            except OSError:
                return False
            # Another server may have removed it, or gone on with it.
            changed = [run for run in ended if run.id not in names or (run.resumable and run.goes_on())]
            with self._changed:
                for run in changed:
                    if run.phase is Phase.ENDED:
                        self._runs.pop(run.id, None)
                known = {*self._runs, *self._making}
            taken = [self._take(name, self._elsewhere.get(name)) for name in sorted(names - known)]
            self._elsewhere = {run.id: run for run in taken if run is not None}
            return not known.issuperset(self._runs)

    def _take(self, name: str, known: Run | None) -> Run | None:
        """Takes the run in a folder over, unless another server looks after it: then gives the run.

        `known` is the run where that was so at the last look.
        """
        try:
            run = known or Run.read(self._folder / name)
            owned = run.log.ended or run.own()
            # Its server may have ended it since it was read.
            run.log.refresh()
        except (OSError, ValueError, KeyError, TypeError):
            # Later, it is most likely one that another server is about to make.
            if not self._found:
                logger.warning("can't read a run from its folder", extra={"run": name})
            return None
        if not owned and not run.log.ended:
            if known is None:
                logger.info("the run is managed by another server", extra={"run": name, "server": run.owner})
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
        """Looks after a run that another server left: its process may still train, or have ended."""
        outcome = RunResult.read(run.folder)
        if run.process.lives or (outcome is not None and not outcome.stopped):
            run.phase = Phase.TRAINING
            logger.info("attached to a run that an earlier server process started", extra={"run": run.id})
            self._spawn(f"run {run.id}", lambda: self._look_after(run, launch=False))
        elif run.log.newest(events.Queued) is None:
            self._end(run, Failed(f"{SERVER_STOPPED} before all data had come"))
        elif not self._limits.auto_resume or not self._limits.slots:
            self._end(run, Failed(SERVER_STOPPED, *run.place, resumable=True))
        elif run.futile >= MAX_FUTILE:
            reason = f"{SERVER_STOPPED}, {run.futile} times without progress of this run"
            self._end(run, Failed(reason, *run.place, resumable=True))
        else:
            logger.info("resuming a run", extra={"run": run.id})
            with self._changed:
                self._requeue(run)

    # Training.

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
            self._tell()
            self._look_after(run, launch=True)

    def _look_after(self, run: Run, *, launch: bool) -> None:
        """Sees a run through to its end, whatever happens."""
        try:
            if launch:
                self._launch(run)
            self._watch(run)
            self._conclude(run)
        except Exception:
            logger.exception("the run failed with an internal error", extra={"run": run.id})
            run.process.signal(signal.SIGKILL)
            self._end(run, Failed("internal error; the server's log has it", *run.place))

    def _launch(self, run: Run) -> None:
        # torchrun starts processes of its own, and CUDA is set up once in each process.
        forkable = run.request.workers == 1 and run.request.device == "cpu"
        run.process.start(self._command, run.request.threads, self._parent if forkable else None)
        with self._changed:
            if run.cancelled_at is not None or self._stopping:
                run.process.signal(INTERRUPT if run.cancelled_at is None else signal.SIGTERM)

    def _watch(self, run: Run) -> None:
        """Follows the training process until it ends; kills it where it was told to stop and doesn't, or overspends."""
        watch = budget.Watch(run.request.budget, run.folder, self._limits.max_written)
        stopping_at: float | None = None
        while True:
            alive = run.process.wait()
            self._follow(run)
            if not alive:
                return
            if self._stopping and stopping_at is None:
                stopping_at = time.monotonic()
            told = [at for at in (run.cancelled_at, stopping_at) if at is not None]
            if told and time.monotonic() - min(told) > self._limits.cancel_grace_seconds:
                run.process.signal(signal.SIGKILL)
            if not run.overspent:
                run.overspent = watch.overspent(run.process.pid, run.seconds if run.request.budget.max_seconds else 0.0)
                if run.overspent:
                    run.process.signal(signal.SIGKILL)

    def _follow(self, run: Run) -> None:
        for event in run.log.refresh():
            if isinstance(event.what, events.Started):
                self._tell()
            if isinstance(event.what, (events.Step, events.Epoch)):
                step = event.what.step if isinstance(event.what, events.Step) else 0
                loss = event.what.logs.get("loss")
                self._observer.run_progressed(run.request.model, event.what.epoch, step, loss)

    # Ending.

    def _conclude(self, run: Run) -> None:
        """The process has ended: publishes what it gave, or says why it gave nothing."""
        outcome = RunResult.read(run.folder)
        if run.cancelled_at is not None:
            self._end(run, Cancelled(run.place[0]))
        elif run.overspent:
            self._end(run, Failed(f"the run was ended: {run.overspent}", *run.place))
        elif outcome is None or outcome.stopped:
            if self._stops_soon():
                self._interrupt(run)
                return
            told = "the training process was told to stop by somebody else"
            interrupted = outcome is not None or not run.process.ended_by_itself
            self._end(run, Failed(told if outcome else run.process.death, *run.place, resumable=interrupted))
        elif outcome.kind == "failed":
            self._end(run, Failed(safe_text(outcome.reason), outcome.epoch, outcome.step, outcome.resumable))
        else:
            self._finish(run, outcome)

    def _stops_soon(self) -> bool:
        """Whether the server stops: of a group of processes that is told to, the training process may hear it first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._stopping, STOP_SECONDS)

    def _interrupt(self, run: Run) -> None:
        """The server stops before the run has ended."""
        if not self._limits.auto_resume:
            self._end(run, Failed(SERVER_STOPPED, *run.place, resumable=True))
            return
        with self._changed:
            run.phase = Phase.ENDED
        run.disown()

    def _finish(self, run: Run, outcome: RunResult) -> None:
        request = run.request
        version = 0
        if request.publish and not outcome.withheld and request.kind is Kind.TRAINING:
            try:
                version = self._repository.publish_once(
                    request.model,
                    result_file(run.folder),
                    run=run.id,
                    base_version=request.version,
                    label=request.publish_label or "",
                )
            except ServerError as error:
                self._end(run, Failed(str(error), outcome.epoch))
                return
        seconds = run.seconds if run.resumed else outcome.seconds
        self._end(run, events.Finished(version, outcome.logs, seconds, safe_text(outcome.withheld)))

    def _end(self, run: Run, what: What) -> None:
        with self._changed:
            if run.phase is Phase.ENDED:
                return
            run.phase = Phase.ENDED
        state = type(what).__name__.lower()
        self._observer.run_ended(run.request.model, state)
        self._tell()
        reason = {"reason": what.reason} if isinstance(what, Failed) else {}
        logger.info("a run ended", extra={"run": run.id, "state": state, **reason})
        if not (isinstance(what, Failed) and what.resumable):
            published = isinstance(what, events.Finished) and what.version
            for name in (*MEANS, RESULT) if published else MEANS:
                shutil.rmtree(run.folder / name, ignore_errors=True)
        # The event comes last, so that a client that has seen it finds the run's files and versions in place. Under the
        # lock, so that one that resumes or deletes the run at once doesn't find it owned by this very server.
        with self._changed:
            try:
                events.append(run.folder, what)
                run.log.refresh()
            except OSError as error:
                logger.error("can't write the last event of the run: %s", error.strerror, extra={"run": run.id})
                run.log.put(what)
            run.disown()
        self._prune()

    def _prune(self) -> None:
        """Removes the oldest ended runs beyond those that are kept."""
        with self._changed:
            ended = [run for run in _newest_first(self._runs.values()) if run.log.ended]
        for run in ended[self._limits.max_kept :]:
            with contextlib.suppress(RunElsewhereError, UnknownRunError):
                self._own(run)
                self._remove(run)

    def _remove(self, run: Run) -> None:
        """Forgets a run, whose lock is held, with its folder."""
        with self._changed:
            self._runs.pop(run.id, None)
        shutil.rmtree(run.folder, ignore_errors=True)
        run.disown()

    def _tell(self) -> None:
        with self._changed:
            phases = [run.phase for run in self._runs.values()]
        self._observer.runs_changed(
            phases.count(Phase.RECEIVING) + phases.count(Phase.WAITING), phases.count(Phase.TRAINING)
        )


def _later(one: Run, other: Run) -> bool:
    """Whether one of two runs leaves the queue after the other, which came later."""
    return one.request.priority < other.request.priority


def _newest_first(runs: Iterable[Run], model: str = "") -> list[Run]:
    """Runs, or those of one model."""
    chosen = [run for run in runs if model in ("", run.request.model)]
    return sorted(chosen, key=lambda run: (run.created_time, run.id), reverse=True)


def _of_another_server(run: Run) -> RunElsewhereError:
    return RunElsewhereError(f"run '{run.id}' is looked after by another server on this repository: {run.owner}")
