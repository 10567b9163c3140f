"""What the server has child processes do."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from layerserve_server.errors import BusyError, CallCancelledError, UnavailableError
from layerserve_server.jobs import failures
from layerserve_server.jobs.channel import Channel, JobDiedError, never
from layerserve_server.jobs.fork_server import ForkServer
from layerserve_server.jobs.forked_process import ForkedProcess
from layerserve_server.jobs.limits import JobLimits, model_limits
from layerserve_server.jobs.table import Job

logger = logging.getLogger(__name__)

#: Module of the program of both processes.
PROGRAM = "layerserve_server.jobs.program"
#: Time without a job after which a process ends, in seconds.
IDLE_SECONDS = 300.0
#: Maximum number of jobs at a time of those that wait for one another: each has a copy of its model.
MAX_QUEUED = 2
#: Time between two checks whether a client that waits for a slot is still there, in seconds.
SLOT_CHECK_SECONDS = 0.2
#: Time, in seconds, for a process that exceeds its limits to be killed on a busy machine.
LATE_SECONDS = 60.0
#: Default limits of jobs whose time or memory isn't given: processor time in seconds, and bytes.
CHECK_SECONDS, CHECK_BYTES = 20.0, 2 << 30


class Jobs:
    """The two processes that fork, and what may be asked of them. They start when they are needed. Thread-safe."""

    def __init__(
        self,
        check_seconds: float = CHECK_SECONDS,
        check_bytes: int = CHECK_BYTES,
        *,
        idle_seconds: float = IDLE_SECONDS,
        keep_warm: bool = False,
        modules: Sequence[str] = (),
        programs: Sequence[str] = (),
    ) -> None:
        """`check_seconds` limits a job's processor time, `check_bytes` its memory in addition to its model's.

        Processes end after `idle_seconds` without a job. With `keep_warm`, the one with torch stays. `modules` are
        those of extensions' jobs, which the one without torch imports; `programs` are those of extensions for runs,
        which the other one imports.
        """
        self._check_seconds = check_seconds
        self._check_bytes = check_bytes
        self._cold = ForkServer(PROGRAM, ["cold", str(idle_seconds), *modules])
        self._warm = ForkServer(PROGRAM, ["warm", "inf" if keep_warm else str(idle_seconds), *programs])
        self._slots = threading.BoundedSemaphore(MAX_QUEUED)

    def warm_up(self) -> None:
        """Starts the process with torch, without waiting until it is ready."""
        self._warm.start()

    def limits(self, parameters: int = 0, seconds: float | None = None) -> JobLimits:
        """Returns the limits of a job with a model of so many parameters. `seconds` replaces the setting."""
        return model_limits(self._check_seconds if seconds is None else seconds, self._check_bytes, parameters)

    def run(
        self,
        job: Job,
        arguments: Mapping[str, Any],
        limits: JobLimits,
        gone: Callable[[], bool] = never,
        what: str = "",
    ) -> dict[str, Any]:
        """Does a job and returns its reply. `what` describes it in error texts, by default as the job does.

        Raises the error that the job raised, TooLargeError if it exceeded a limit, BusyError if others occupied all
        slots for that time, UnavailableError if no process can be started, and CallCancelledError, after ending the
        job, once `gone` returns True.
        """
        what = what or job.what
        with self._slot(job, limits, gone):
            try:
                with self.connection(job, arguments, limits, limits.wall_seconds + LATE_SECONDS, gone) as channel:
                    reply = channel.receive(gone)
            except JobDiedError as died:
                raise failures.death(died, job, limits, what) from died
            except OSError as error:
                raise UnavailableError(f"the process for {what} can't be started; try again later") from error
        failures.check(reply, job, what)
        return reply

    @contextmanager
    def connection(
        self,
        job: Job,
        arguments: Mapping[str, Any],
        limits: JobLimits,
        seconds: float,
        gone: Callable[[], bool] = never,
    ) -> Iterator[Channel]:
        """Begins a job, and gives the channel to its process, which ends with the block.

        `seconds` is the maximum time for each message. Raises OSError if no process can be started.
        """
        server = self._warm if job.warm else self._cold
        with server.connection(seconds, gone) as channel:
            request = {"function": job.function, "nice": job.nice, "limits": asdict(limits), "arguments": arguments}
            channel.send(request)
            yield channel

    def fork(self, function: str, arguments: Mapping[str, Any]) -> ForkedProcess | None:
        """Calls a function, "module:name", in a process without limits that outlives the server.

        Returns None if no process can be forked.
        """
        try:
            with self._warm.connection(None) as channel:
                channel.send({"function": function, "arguments": arguments})
                return ForkedProcess(channel)
        except OSError:
            return None

    def close(self) -> None:
        """Ends the processes. Jobs under way continue; further ones aren't begun."""
        self._cold.close()
        self._warm.close()

    @contextmanager
    def _slot(self, job: Job, limits: JobLimits, gone: Callable[[], bool]) -> Iterator[None]:
        if not job.queued:
            yield
            return
        end = time.monotonic() + limits.wall_seconds
        while not (free := self._slots.acquire(timeout=SLOT_CHECK_SECONDS)) and time.monotonic() < end:
            if gone():
                raise CallCancelledError("the client cancelled the call")
        if not free:
            raise BusyError("other training requests are being tried", retry_after=limits.seconds)
        try:
            yield
        finally:
            self._slots.release()
