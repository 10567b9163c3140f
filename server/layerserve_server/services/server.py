"""Handler of layerserve.v1.ServerService, which describes the server itself."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Literal, TypeAlias

from layerserve.v1 import server_pb2 as pb

from layerserve_server.repository.repository import Repository
from layerserve_server.services.messages import parse, timestamp
from layerserve_server.settings.settings import Settings
from layerserve_server.transport.call import Call, Routes

SERVICE = "/layerserve.v1.ServerService/"

ServerState: TypeAlias = Literal["starting", "serving", "draining"]

STATES: dict[ServerState, pb.ServerState.ValueType] = {
    "starting": pb.SERVER_STATE_STARTING,
    "serving": pb.SERVER_STATE_SERVING,
    "draining": pb.SERVER_STATE_DRAINING,
}


class ServerService:
    """Handler of the server service."""

    def __init__(
        self, settings: Settings, repository: Repository, release: str, state: Callable[[], ServerState]
    ) -> None:
        """`release` is that of layerserve, and `state` returns what the server does now."""
        self._settings = settings
        self._repository = repository
        self._release = release
        self._state = state
        self._start_time = time.time()

    def routes(self) -> Routes:
        """Returns the handler."""
        return Routes(unary={SERVICE + "GetServer": self.get_server})

    def get_server(self, call: Call) -> None:
        """Handles GetServer. Host, process and misplaced files are for callers that may change all models."""
        parse(pb.GetServerRequest, call.request)
        manages = call.caller.manages_all
        misplaced = self._repository.folder.misplaced() if manages else {}
        response = pb.GetServerResponse(
            version=self._release,
            state=STATES[self._state()],
            start_time=timestamp(self._start_time),
            host=socket.gethostname() if manages else "",
            process_id=os.getpid() if manages else 0,
            workers=self._settings.workers,
            transport=self._settings.transport,
            tls=self._settings.tls_certificate is not None,
            misplaced=[pb.MisplacedFile(path=path, expected=expected) for path, expected in misplaced.items()],
        )
        call.answer(response.SerializeToString())
