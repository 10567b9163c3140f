"""The program of a session's process: it carries out the requests that come through its socket, one after another."""

from __future__ import annotations

import contextlib
import math
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from layergraph.errors import LayerGraphError, NonFiniteLossError, NonFiniteWeightError
from layergraph.training.malloc_tuning import keep_freed_memory

from layerserve_server.errors import (
    InvalidRequestError,
    InvalidTensorError,
    NotTrainableError,
    ServerError,
    TooLargeError,
    safe_text,
)
from layerserve_server.extensions.online import publications
from layerserve_server.extensions.online.frames import Frame
from layerserve_server.extensions.online.session import Session
from layerserve_server.extensions.online.session_socket import SessionSocket
from layerserve_server.jobs.failures import out_of_memory
from layerserve_server.training import events
from layerserve_server.training.event_log import EventLog
from layerserve_server.training.events import EventWriter
from layerserve_server.training.process.cpu_yield import CpuYield
from layerserve_server.training.process.priority import lower_priority
from layerserve_server.training.process.reporting import Position
from layerserve_server.training.process.work import prepared
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.control import ControlFile
from layerserve_server.training.run_folder.result import INTERRUPT, Interruption, RunResult

#: Minimum time between two events about steps, in seconds.
STEP_SECONDS = 1.0
#: Number of versions to be published for which the session goes on; it waits while there are more.
MAX_PENDING = 2
#: Maximum time between two looks at what calls have set for the session, in seconds.
LOOK_SECONDS = 0.5
#: Time between two checks whether one of them was published, in seconds.
CHECK_SECONDS = 0.05


def execute(folder: Path, request: RunRequest, position: Position) -> RunResult:
    """Carries out a session, from where it was if it was interrupted, until it is ended or was idle for too long."""
    began = time.monotonic()
    _, model, _ = prepared(folder, request)
    writer = EventWriter(folder)
    writer.write(events.Log(f"from version {request.version}, seed {request.seed}, threads {request.threads}"))
    door = SessionSocket(folder)
    signal.signal(INTERRUPT, door.interrupt)
    position.epoch = 1
    session = Session(folder, request, model)
    program = _Program(folder, request, session, door, writer, position)
    try:
        session.start()
        if EventLog.read(folder).newest(events.Started) is not None:
            writer.write(events.Resumed(1, session.step))
        door.open()
        writer.write(events.Started(1, 0, 0))
        lower_priority(request.nice)
        with keep_freed_memory():
            idle = program.run()
    except Interruption:
        session.save()
        raise
    finally:
        position.step = session.step
        door.close()
        session.close()
    program.report(now=True)
    writer.close()
    if idle:
        reason = f"{publications.IDLE} for {session.idle_seconds:g} seconds"
        return RunResult("failed", reason, 1, session.step, resumable=True)
    return RunResult("trained", "", 1, session.step, time.monotonic() - began, dict(session.logs))


class _Program:
    """Carries out requests and reports about them."""

    def __init__(
        self,
        folder: Path,
        request: RunRequest,
        session: Session,
        door: SessionSocket,
        writer: EventWriter,
        position: Position,
    ) -> None:
        self._folder = folder
        self._session = session
        self._door = door
        self._writer = writer
        self._position = position
        self._control = ControlFile(folder)
        self._yield = CpuYield() if request.nice else None
        #: Why a version was left out, as the last event about that has it.
        self._left_out = ""
        #: Step of the newest published version that there was an event about.
        self._announced = published.step if (published := publications.read_published(folder)) else 0
        self._reported_at, self._reported = -math.inf, session.step
        self._kinds: Mapping[str, Callable[[Frame], Frame]] = {
            "attach": self._attach,
            "step": self._step,
            "test": lambda frame: Frame({"step": session.step, "logs": session.test(frame)}),
            "predict": self._predict,
            "save": self._save,
            "publish": self._publish,
        }

    def run(self) -> bool:
        """Returns once the session was ended, or no request has come for too long: True then.

        Raises Interruption, also if a call has paused the session.
        """
        session, door = self._session, self._door
        last = time.monotonic()
        while True:
            with contextlib.suppress(OSError):
                session.publish_if_due(stepped=False)
            self._announce()
            now = time.monotonic()
            if now >= last + session.idle_seconds:
                session.save()
                return True
            control = self._control.read()
            if control.pause:
                raise Interruption
            if control.stop:
                if control.why_stopped:
                    self._writer.write(events.Log(f"stopped early, after step {session.step}: {control.why_stopped}"))
                return self._end()
            if len(publications.pending(self._folder)) > MAX_PENDING:
                door.pause(CHECK_SECONDS)
                continue
            frame = door.receive(min(last + session.idle_seconds, now + self._patience()))
            if frame is None:
                continue
            if frame.header["kind"] == "end":
                ended = self._end()
                door.reply(Frame({"step": session.step}))
                return ended
            before = session.step
            door.reply(self._answer(frame))
            last = time.monotonic()
            if session.step > before:
                self._position.step = session.step
                self.report()
                if self._yield is not None:
                    self._yield.on_train_batch_end(session.step)

    def _end(self) -> bool:
        if self._session.options.publish:
            self._session.publish()
        self._session.save()
        return False

    def _patience(self) -> float:
        """Returns how long to wait for a request at most, in seconds."""
        if self._announced < publications.newest(self._folder):
            return CHECK_SECONDS
        return min(LOOK_SECONDS, self._session.seconds_to_publication)

    def _answer(self, frame: Frame) -> Frame:
        try:
            return self._kinds[frame.header["kind"]](frame)
        except Exception as error:
            refusal = _refusal(error)
            return Frame({"error": type(refusal).__name__, "text": safe_text(str(refusal))})

    def _attach(self, frame: Frame) -> Frame:
        published = publications.read_published(self._folder)
        specs = self._session.specs
        return Frame(
            {
                "step": self._session.step,
                "published": published.step if published else 0,
                "version": published.version if published else 0,
                **specs,
            }
        )

    def _step(self, frame: Frame) -> Frame:
        return Frame({"number": frame.header["number"], "logs": self._session.train(frame)})

    def _predict(self, frame: Frame) -> Frame:
        found = self._session.predict(frame)
        return Frame({"step": self._session.step}, found.arrays, found.payload)

    def _save(self, frame: Frame) -> Frame:
        self._session.save()
        return Frame({"step": self._session.step})

    def _publish(self, frame: Frame) -> Frame:
        self._session.publish()
        return Frame({"step": self._session.step})

    def report(self, *, now: bool = False) -> None:
        """Writes an event about the last step, if one is due or with `now`."""
        step = self._session.step
        if step > self._reported and (now or time.monotonic() - self._reported_at >= STEP_SECONDS):
            self._reported, self._reported_at = step, time.monotonic()
            self._writer.write(events.Step(1, 1, step, 0, self._session.logs))

    def _announce(self) -> None:
        """Writes an event about a version that was published, or left out, since the last one."""
        if self._session.left_out != self._left_out:
            self._left_out = self._session.left_out
            if self._left_out:
                self._writer.write(events.Log(f"no version after step {self._session.step}: {self._left_out}"))
        # First: the server may publish the last one in between, and notes it before it is no longer pending.
        settled = not publications.pending(self._folder)
        published = publications.read_published(self._folder)
        if published is not None and published.step > self._announced:
            self._announced = published.step
            self._writer.write(events.Log(f"version {published.version} was published after step {published.step}"))
        elif settled:
            self._announced = publications.newest(self._folder)


def _refusal(error: Exception) -> ServerError:
    """Returns the error for the client of a request that failed."""
    if isinstance(error, ServerError):
        return error
    if isinstance(error, NonFiniteLossError):
        return InvalidRequestError(f"step {error.step}: the loss is {error.value}, so the step is refused")
    if isinstance(error, NonFiniteWeightError):
        return InvalidRequestError(f"step {error.step}: weight '{error.path}' isn't finite after it, so it is refused")
    if isinstance(error, LayerGraphError):
        return InvalidTensorError(str(error))
    if isinstance(error, OSError):
        return NotTrainableError(f"the session's files can't be written: {error.strerror or type(error).__name__}")
    if out_of_memory(error):
        return TooLargeError("the batch takes more memory than there is")
    traceback.print_exc()
    # torch's own errors name axes and values; the text of others may reveal internals.
    reason = f": {safe_text(str(error), 300)}" if isinstance(error, (RuntimeError, IndexError)) else ""
    return InvalidRequestError(f"the batch fails with {type(error).__name__}{reason}")
