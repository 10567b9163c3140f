"""Handler of layerserve.v1.OnlineTrainingService: sessions of training step by step."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from dataclasses import asdict
from functools import partial

from layerserve.online.options import RUN_OPTIONS, SESSION, OnlineOptions
from layerserve.training.options.contract import BUDGET, Budget
from layerserve.v1 import online_pb2 as pb

from layerserve_server.access.ownership import Access
from layerserve_server.errors import (
    STOPPING,
    CallCancelledError,
    IdleStreamError,
    InvalidRequestError,
    NotTrainableError,
    UnavailableError,
)
from layerserve_server.extensions.online.kind import ONLINE
from layerserve_server.extensions.online.publications import IDLE
from layerserve_server.extensions.online.session_client import SessionClient, SessionClosedError
from layerserve_server.extensions.online.stream import OnlineStream
from layerserve_server.repository.repository import Repository
from layerserve_server.services.messages import lease, model_spec, parsed
from layerserve_server.services.open_work import OpenWork
from layerserve_server.services.run_access import find_run, owned
from layerserve_server.services.run_requests import RunDefaults, common_fields, read_options
from layerserve_server.training import events
from layerserve_server.training.checks.request_checks import check_range
from layerserve_server.training.request import RunRequest
from layerserve_server.training.runs.registry import Runs
from layerserve_server.training.runs.run import Run, RunState
from layerserve_server.transport.call import Routes, Stream

SERVICE = "/layerserve.v1.OnlineTrainingService/"
#: Maximum time between a process's end and the event about it, in seconds.
END_SECONDS = 10.0


class OnlineTrainingService:
    """Handlers of the service for training step by step."""

    def __init__(
        self, repository: Repository, runs: Runs, work: OpenWork, defaults: RunDefaults, idle_seconds: float
    ) -> None:
        """`idle_seconds` is the time without a request after which a session ends; callers may set less."""
        self._repository = repository
        self._runs = runs
        self._work = work
        self._defaults = defaults
        self._idle_seconds = idle_seconds
        #: The stream of each session that has one.
        self._streams: dict[str, OnlineStream] = {}

    def routes(self) -> Routes:
        """Returns the handlers."""
        return Routes(both_streams={SERVICE + "TrainOnline": self.train_online})

    async def train_online(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Handles TrainOnline: opens a session or attaches to one, and carries out its requests.

        Raises as `messages.lease`, `Quota.run`, `Runs.begin`, `Runs.resume` and `OnlineStream.messages` do.
        """
        first = await parsed(stream, pb.TrainOnlineRequest, await stream.first())
        part = first.WhichOneof("part")
        if part == "spec":
            run = await stream.blocking(
                partial(self._work.begin, stream.caller, lambda: self._begin(stream, first.spec))
            )
        elif part == "resume":
            run = await stream.blocking(lambda: self._resume(stream, first.resume.run_id))
        else:
            raise InvalidRequestError("the first message of the stream must be a spec or resume")
        base = model_spec(run.request.model, run.request.version)
        stream.set_metric_labels(base.name, base.version)
        accepted = pb.OnlineAccepted(run_id=run.id, base=base)
        yield pb.TrainOnlineResponse(id=first.id, accepted=accepted).SerializeToString()
        # Before this one has the process's connection, whose loss the other stream would take for the process's end.
        self._take_over(run)
        link = await self._connected(run, stream)
        if link is None:
            yield pb.TrainOnlineResponse(id=first.id, ended=_ended(run)).SerializeToString()
            return
        mine = OnlineStream(stream, run, link)
        self._take_over(run)
        self._streams[run.id] = mine
        try:
            async for message in mine.messages(first.id):
                yield message.SerializeToString()
            if mine.lost:
                await _raise_end(run, stream)
                yield pb.TrainOnlineResponse(id=mine.ending, ended=_ended(run)).SerializeToString()
        finally:
            link.close()
            if self._streams.get(run.id) is mine:
                del self._streams[run.id]

    def _take_over(self, run: Run) -> None:
        if (other := self._streams.get(run.id)) is not None:
            other.take_over()

    def _begin(self, stream: Stream, spec: pb.OnlineSpec) -> Run:
        with lease(self._repository, stream.caller, "train", spec.model) as base:
            stream.set_metric_labels(base.name, base.version)
            request = owned(self._request(spec, base.name, base.version), stream.caller, self._repository)
            run = self._runs.begin(request, base, lambda: not stream.listens())
        if stream.trace is not None:
            stream.trace.begin_run(run.folder, stream.metadata)
        self._runs.enqueue(run)
        return run

    def _resume(self, stream: Stream, run_id: str) -> Run:
        run = find_run(self._runs, stream.caller, Access.FULL, run_id)
        if run.request.kind != ONLINE:
            raise InvalidRequestError(f"run '{run.id}': is no session of online training")
        if not run.resumable and run.state is not RunState.PAUSED:
            return run
        return self._work.begin(stream.caller, lambda: self._runs.steering.resume(run_id), run)

    def _request(self, spec: pb.OnlineSpec, model: str, version: int) -> RunRequest:
        filled = {"seed": secrets.randbelow(2**31), "checkpoint_seconds": self._defaults.checkpoint_seconds}
        session = asdict(OnlineOptions(**{"idle_seconds": self._idle_seconds} | read_options(SESSION, spec)))
        for option in SESSION:
            check_range(option, session[option.name])
        if session["idle_seconds"] > self._idle_seconds:
            raise InvalidRequestError(
                f"idle_seconds: got {session['idle_seconds']:g}, expected at most {self._idle_seconds:g}, the server's "
                "setting online_idle_seconds"
            )
        return RunRequest(
            **common_fields(spec, model, version, self._defaults),
            **(filled | read_options(RUN_OPTIONS, spec)),
            data=(),
            kind=ONLINE,
            kind_options=session,
            budget=Budget(**read_options(BUDGET, spec)),
        )

    async def _connected(self, run: Run, stream: Stream) -> SessionClient | None:
        """Connects to the session's process, once it runs. Returns None for a session that was ended.

        Raises CallCancelledError, UnavailableError if the server is stopping, and as `_raise_end` does.
        """
        wake = asyncio.Event()
        stream.on_closed(wake.set)
        with run.log.watchers.watched(lambda: stream.soon(wake.set)):
            while True:
                wake.clear()
                if _rests(run):
                    await _raise_end(run, stream)
                    return None
                if not stream.listens():
                    raise CallCancelledError("the client cancelled the call")
                if not stream.open():
                    raise UnavailableError(STOPPING)
                try:
                    return await SessionClient.open(run.folder)
                except SessionClosedError:
                    await wake.wait()


async def _raise_end(run: Run, stream: Stream) -> None:
    """Waits for the end of a run whose process has ended, and raises the reason. Returns if the session was ended.

    Raises IdleStreamError if no request came, UnavailableError if the session was interrupted otherwise, and
    NotTrainableError if it failed, or a call has cancelled or paused it.
    """
    wake = asyncio.Event()
    with run.log.watchers.watched(lambda: stream.soon(wake.set)):
        while not _rests(run):
            if not stream.open():
                raise UnavailableError(f"the server is stopping; attach to session '{run.id}' again")
            wake.clear()
            try:
                await asyncio.wait_for(wake.wait(), END_SECONDS)
            except asyncio.TimeoutError:
                raise UnavailableError(f"the process of session '{run.id}' has ended; attach to it again") from None
    last = run.log.last
    if isinstance(last, events.Failed):
        if not last.resumable:
            raise NotTrainableError(f"session '{run.id}' failed: {last.reason}")
        if last.reason.startswith(IDLE):
            raise IdleStreamError(f"{last.reason}; session '{run.id}' can be resumed")
        raise UnavailableError(f"session '{run.id}' was interrupted: {last.reason}; it can be resumed")
    if isinstance(last, events.Cancelled):
        raise NotTrainableError(f"session '{run.id}' was cancelled")
    if not isinstance(last, events.Finished):
        raise NotTrainableError(f"session '{run.id}' was paused; resume it")


def _rests(run: Run) -> bool:
    """Whether a session has ended, for now or for good."""
    return run.log.ended or run.state is RunState.PAUSED


def _ended(run: Run) -> pb.OnlineEnded:
    message = pb.OnlineEnded(step=run.position[1])
    if version := run.published_version:
        message.published.CopyFrom(model_spec(run.request.model, version))
    return message
