"""Information about the server that answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast

from layerserve.calls.flow import Flow, call
from layerserve.calls.methods import GET_SERVER
from layerserve.models.info import read_time
from layerserve.v1 import server_pb2 as pb

#: State of a server. "starting" reads its models, "draining" is about to stop; both still answer calls.
ServerState = Literal["starting", "serving", "draining", "unknown"]


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server, of the release `version` of layerserve, which started at `start_time`.

    `host` and `process_id` are those of its first process, `workers` is the number of processes that answer
    predictions, `transport` its gRPC implementation ("grpcio" or "native"), and `tls` whether it uses TLS. `misplaced`
    are files in its folder that look like models but aren't served, by path, with what was expected; it is empty for
    callers without the right "manage" on all models.
    """

    version: str
    state: ServerState
    start_time: datetime | None
    host: str
    process_id: int
    workers: int
    transport: str
    tls: bool
    misplaced: Mapping[str, str]


def get_server() -> Flow[ServerInfo]:
    """Flow of the server's description."""
    reply = yield from call(GET_SERVER, pb.GetServerRequest())
    return ServerInfo(
        version=reply.version,
        state=_state(reply.state),
        start_time=read_time(reply.start_time) if reply.HasField("start_time") else None,
        host=reply.host,
        process_id=reply.process_id,
        workers=reply.workers,
        transport=reply.transport,
        tls=reply.tls,
        misplaced={one.path: one.expected for one in reply.misplaced},
    )


def _state(number: int) -> ServerState:
    names = pb.ServerState.DESCRIPTOR.values_by_number
    if number == 0 or number not in names:
        return "unknown"
    return cast(ServerState, names[number].name.removeprefix("SERVER_STATE_").lower())
