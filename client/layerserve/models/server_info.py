"""Information about the server that answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from layerserve.calls.flow import Flow, call
from layerserve.v1 import server_pb2 as pb
from layerserve.values.replies import read

#: State of a server. "starting" reads its models, "draining" is about to stop; both still answer calls.
ServerState = Literal["starting", "serving", "draining", "unknown"]


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server, of the release `version` of layerserve, which started at `start_time`.

    `host` and `process_id` are those of its first process, `workers` is the number of processes that answer
    predictions, `transport` its gRPC implementation ("grpcio" or "native"), and `tls` whether it uses TLS. `misplaced`
    are files in its folder that look like models but aren't served, by path, with what was expected. These, the host
    and the process are empty or 0 for callers without the right "manage" on all models.
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
    reply = yield from call(pb.GetServerRequest(), pb.GetServerResponse)
    return read(ServerInfo, reply, misplaced={one.path: one.expected for one in reply.misplaced})
