"""Registry of a server's sweeps: creation, the threads that drive them, and sweeps of earlier and other servers."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from layerserve_server import folder_owner
from layerserve_server.errors import (
    STOPPING,
    BusyError,
    InvalidRequestError,
    NotTrainableError,
    RunElsewhereError,
    ServerError,
    UnavailableError,
    UnknownRunError,
    safe_text,
)
from layerserve_server.extensions.sweeps.base_copy import copy_base
from layerserve_server.extensions.sweeps.driver import Driver
from layerserve_server.extensions.sweeps.plan import Method, Plan
from layerserve_server.extensions.sweeps.space import MAX_TRIALS, Dimension, check_space, combinations, with_settings
from layerserve_server.extensions.sweeps.sweep import Sweep, SweepState
from layerserve_server.folder_owner import remove_folder
from layerserve_server.jobs.channel import never
from layerserve_server.records import DAMAGED, log_damaged
from layerserve_server.repository.repository import Repository
from layerserve_server.training.base_version import BaseVersion
from layerserve_server.training.model import monitored
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.layout import RESULT
from layerserve_server.training.runs.registry import Runs
from layerserve_server.training.runs.run import RUN_ID, new_id
from layerserve_server.training.runs.table import in_excess

logger = logging.getLogger(__name__)

#: Maximum number of sweeps at a time: each has a process.
MAX_ACTIVE = 16
#: Maximum number of sweeps that are being created: each occupies a thread of the transport.
MAX_CREATING = 2
#: Default number of trials.
TRIALS = 20
#: Maximum number of requests that are tried before a sweep begins.
MAX_TRIED = 16
SWEEP_ID = RUN_ID


class Direction(Protocol):
    """Whether larger values of the monitored log of a request are better. Raises InvalidRequestError if unknown."""

    def __call__(self, path: Path, request: RunRequest, parameters: int, gone: Callable[[], bool] = never) -> bool: ...


class Sweeps:
    """The sweeps in a folder. Each that hasn't ended is driven by a thread of the server that owns it. Thread-safe."""

    def __init__(
        self, folder: Path, runs: Runs, repository: Repository, direction: Direction, *, slots: int, max_kept: int
    ) -> None:
        """`slots` is the number of training slots, and `max_kept` that of a caller's sweeps that have ended."""
        self._folder = folder
        self._runs = runs
        self._repository = repository
        self._direction = direction
        self._slots = slots
        self._max_kept = max_kept
        #: All sweeps, also those that other servers own.
        self._sweeps: dict[str, Sweep] = {}
        #: Ids of sweeps that are being created. A scan must not read their folders.
        self._creating: set[str] = set()
        self._started = self._stopping = False
        #: Whether the folder could be read: sweeps that aren't known aren't denied.
        self._listed = False
        self._lock = threading.Lock()
        #: Held during a scan of the folder, so that only one takes a sweep over.
        self._scanning = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Reads the sweeps in the folder and continues those that haven't ended. To be called after `Runs.start`."""
        folder_owner.sweep(self._folder)
        self.scan()
        self._started = True

    def stop(self) -> None:
        """Stops driving sweeps; the next server continues them. To be called before `Runs.stop`."""
        # Not while a sweep is being taken over.
        with self._scanning, self._lock:
            self._stopping = True
            sweeps = list(self._sweeps.values())
        for sweep in sweeps:
            sweep.wake.set()
        for thread in self._threads:
            thread.join()

    def scan(self) -> None:
        """Reads new sweeps in the folder, and takes over those whose server is gone."""
        with self._scanning:
            try:
                names = {path.name for path in self._folder.iterdir() if SWEEP_ID.fullmatch(path.name)}
            except FileNotFoundError:
                names = set()
            except OSError as error:
                log_damaged(self._folder, error)
                return
            self._listed = True
            with self._lock:
                if self._stopping:
                    return
                # After the folder was listed: what is created meanwhile is in one of the two.
                own = {sweep.id for sweep in self._sweeps.values() if not _is_elsewhere(sweep)} | self._creating
            for name in sorted(names - own):
                self._take(name)

    def _take(self, name: str) -> None:
        """Reads the sweep in a folder again, and takes it over if its server is gone."""
        sweep = self._sweeps.get(name)
        try:
            sweep = sweep or Sweep.read(self._folder / name)
            owned = sweep.ended or sweep.owner.acquire()
            sweep.refresh()
        except DAMAGED as error:
            if sweep is not None:
                sweep.owner.release()
            # After the start it is most likely a sweep that another server is creating.
            if not self._started:
                logger.warning("can't read a sweep from its folder: %s", safe_text(str(error)), extra={"sweep": name})
            return
        with self._lock:
            self._sweeps[name] = sweep
        if sweep.ended:
            sweep.owner.release()
        elif owned:
            self._spawn(sweep)

    def create(
        self,
        request: RunRequest,
        base: BaseVersion,
        dimensions: tuple[Dimension, ...],
        method: Method,
        *,
        trials: int,
        parallel: int,
        seed: int,
        gone: Callable[[], bool] = never,
    ) -> Sweep:
        """Checks a search and starts it. `trials` and `parallel` of 0 mean the default.

        Raises InvalidRequestError if the search space or the settings are invalid, NotTrainableError if files can't be
        written, BusyError if there are too many sweeps, and otherwise as `Runs.check` does.
        """
        grid = method is Method.GRID
        for array in request.data:
            if array.file is None:
                raise InvalidRequestError(f"{array.label()}: got an array to send, expected one on the server")
        if request.on_conflict == "rebase":
            raise InvalidRequestError("on_conflict: got 'rebase' for a sweep, expected 'refuse'")
        check_space(dimensions, request, grid=grid)
        whole = combinations(dimensions) if grid else TRIALS
        for name, value in (("trials", trials), ("parallel", parallel)):
            if not 0 <= value <= MAX_TRIALS:
                raise InvalidRequestError(f"{name}: got {value}, expected at most {MAX_TRIALS}, or 0 for the default")
        sweep_id = new_id()
        with self._lock:
            active = len(self._creating) + sum(one.owner.held and not one.ended for one in self._sweeps.values())
            if self._stopping:
                raise UnavailableError(STOPPING)
            if len(self._creating) >= MAX_CREATING:
                raise BusyError("other sweeps are being tried", retry_after=5.0)
            if active >= MAX_ACTIVE:
                raise BusyError(f"{active} sweeps are under way, the maximum", retry_after=10.0)
            self._creating.add(sweep_id)
        try:
            larger = self._check(request, base, dimensions, gone)
            plan = Plan(
                dimensions,
                method,
                min(trials or whole, whole) if grid else trials or whole,
                min(parallel or self._slots, self._slots),
                seed,
                monitored(request),
                larger,
            )
            return self._create(sweep_id, request, base, plan)
        finally:
            with self._lock:
                self._creating.discard(sweep_id)

    def _check(
        self, request: RunRequest, base: BaseVersion, dimensions: tuple[Dimension, ...], gone: Callable[[], bool]
    ) -> bool:
        """Tries requests with the values of all dimensions. Returns whether larger values of the log are better."""
        first = {dimension.name: dimension.examples[0] for dimension in dimensions}
        tried = [first]
        for dimension in dimensions:
            tried += [{**first, dimension.name: value} for value in dimension.examples[1:]]
        larger = False
        for index, settings in enumerate(tried[:MAX_TRIED]):
            # With the best epoch's weights the dry run also checks that the monitored log exists.
            one = replace(with_settings(request, settings), publish="best")
            checked = self._runs.check(one, base, gone)
            if index == 0:
                larger = self._direction(base.found.path, checked, base.parameter_count, gone)
        return larger

    def _create(self, sweep_id: str, request: RunRequest, base: BaseVersion, plan: Plan) -> Sweep:
        folder = self._folder / sweep_id
        sweep = Sweep(sweep_id, folder, plan, request, time.time())
        try:
            folder.mkdir(parents=True)
            # First, so that no other server on this folder takes the sweep over.
            sweep.owner.acquire()
            copy_base(base, folder)
            request.write(folder)
            plan.write(folder)
            sweep.save()
        except OSError as error:
            remove_folder(folder)
            sweep.owner.release()
            raise NotTrainableError(f"the folder of sweeps can't be written: {error.strerror}") from error
        with self._lock:
            self._sweeps[sweep.id] = sweep
        logger.info("a sweep begins", extra={"sweep": sweep.id, "model": request.model, "trials": plan.trials})
        self._spawn(sweep)
        return sweep

    def _spawn(self, sweep: Sweep) -> None:
        thread = threading.Thread(target=self._drive, args=(sweep,), name=f"sweep {sweep.id}", daemon=True)
        with self._lock:
            self._threads = [one for one in self._threads if one.is_alive()]
            self._threads.append(thread)
        thread.start()

    def _drive(self, sweep: Sweep) -> None:
        try:
            Driver(sweep, self._runs, self._repository, lambda: self._stopping).run()
        except UnavailableError as error:
            # Left as it is, for the next server.
            logger.warning("the sweep can't go on: %s", error, extra={"sweep": sweep.id})
        except ServerError as error:
            logger.warning("the sweep failed: %s", safe_text(str(error)), extra={"sweep": sweep.id})
            self._fail(sweep, str(error))
        except Exception as error:
            logger.exception("the sweep failed with an internal error", extra={"sweep": sweep.id})
            self._fail(sweep, (isinstance(error, OSError) and error.strerror) or "internal error; see the server's log")
        finally:
            sweep.owner.release()
        self._prune()

    def _fail(self, sweep: Sweep, reason: str) -> None:
        sweep.state, sweep.ended_time, sweep.reason = SweepState.FAILED, time.time(), safe_text(reason)
        with contextlib.suppress(OSError):
            sweep.save()
        self._release_runs(sweep)

    def _release_runs(self, sweep: Sweep) -> None:
        """Stops the runs of a sweep that has failed, and removes their results, which nothing reads any more."""
        for run in self._runs.table.list(sweep.request.model):
            if run.request.part_of == sweep.id:
                self._runs.steering.cancel(run.id)
                shutil.rmtree(run.folder / RESULT, ignore_errors=True)

    def _prune(self) -> None:
        """Removes the oldest sweeps of each caller that have ended in excess of `max_kept`."""
        ended = [sweep for sweep in _newest_first(self._sweeps.values()) if sweep.ended]
        for sweep in in_excess(ended, self._max_kept):
            self._remove(sweep)

    def _remove(self, sweep: Sweep) -> None:
        # First the folder, in which a scan would find it again.
        sweep.remove()
        with self._lock:
            self._sweeps.pop(sweep.id, None)

    def get(self, sweep_id: str, visible: Callable[[RunRequest], bool] = lambda request: True) -> Sweep:
        """Returns the sweep with this id. Sweeps whose request isn't `visible` don't exist.

        Raises UnknownRunError if there is none, and UnavailableError until `start` has ended, and if the folder can't
        be read.
        """
        self._check_started()
        sweep = self._sweeps.get(sweep_id)
        if SWEEP_ID.fullmatch(sweep_id) and (sweep is None or _is_elsewhere(sweep)):
            self.scan()
            sweep = self._sweeps.get(sweep_id)
        if sweep is None:
            self._check_listed()
        if sweep is None or not visible(sweep.request):
            raise UnknownRunError(f"no sweep '{safe_text(sweep_id, 80)}'")
        return sweep

    def find(self, caller: str, key: str, visible: Callable[[RunRequest], bool]) -> Sweep | None:
        """Returns the newest sweep with an idempotency key of a caller, whose request is `visible`.

        Raises UnavailableError as `get` does.
        """
        for sweep in self.list():
            if (sweep.request.caller, sweep.request.idempotency_key) == (caller, key) and visible(sweep.request):
                return sweep
        return None

    def list(self, model: str = "") -> list[Sweep]:
        """Returns the sweeps, or those of one model, newest first. Raises UnavailableError as `get` does."""
        self._check_started()
        self.scan()
        self._check_listed()
        with self._lock:
            return _newest_first(self._sweeps.values(), model)

    def _check_started(self) -> None:
        # Before, it isn't known which callers the models are open to, and runs can't be asked for.
        if not self._started:
            raise UnavailableError("the server is starting and hasn't read its sweeps yet; try again in a moment")

    def _check_listed(self) -> None:
        if not self._listed:
            raise UnavailableError("the folder of sweeps can't be read; see the server's log")

    def owner(self, sweep: Sweep) -> str:
        """Returns the server that owns a sweep; empty for this one, and for sweeps that have ended."""
        return sweep.owner.name if _is_elsewhere(sweep) else ""

    def cancel(self, sweep_id: str) -> Sweep:
        """Cancels a sweep and returns it. Does nothing if it has ended.

        Raises as `get` does, RunElsewhereError if another server owns it, and NotTrainableError if files can't be
        written.
        """
        sweep = self._own(sweep_id)
        if not sweep.ended:
            sweep.cancelled = True
            try:
                sweep.save()
            except OSError as error:
                raise NotTrainableError(f"the sweep's folder can't be written: {error.strerror}") from error
            sweep.wake.set()
        return sweep

    def delete(self, sweep_id: str) -> None:
        """Removes a sweep that has ended. Raises as `cancel` does, and NotTrainableError if it hasn't ended."""
        sweep = self._own(sweep_id)
        if not sweep.ended:
            raise NotTrainableError(f"sweep '{sweep.id}' hasn't ended; cancel it first")
        self._remove(sweep)

    def _own(self, sweep_id: str) -> Sweep:
        sweep = self.get(sweep_id)
        if owner := self.owner(sweep):
            raise RunElsewhereError(f"sweep '{sweep.id}' is owned by another server on this repository: {owner}")
        return sweep


def _is_elsewhere(sweep: Sweep) -> bool:
    """Whether another server owns a sweep, or owned it until it was stopped."""
    return not sweep.ended and not sweep.owner.held


def _newest_first(sweeps: Iterable[Sweep], model: str = "") -> list[Sweep]:
    chosen = [sweep for sweep in sweeps if model in ("", sweep.request.model)]
    return sorted(chosen, key=lambda sweep: (sweep.created_time, sweep.id), reverse=True)
