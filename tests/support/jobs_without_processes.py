"""Jobs that no process does: they reply what a test gives."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from layerserve_server.jobs.channel import Channel, never
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.jobs.limits import JobLimits
from layerserve_server.jobs.table import Job


class Replying(Jobs):
    """Gets a reply without a process, and notes the limits."""

    def __init__(self, reply: bytes) -> None:
        super().__init__()
        self._reply = reply
        self.limits_given: list[JobLimits] = []

    @contextmanager
    def connection(
        self,
        job: Job,
        arguments: Mapping[str, Any],
        limits: JobLimits,
        seconds: float,
        gone: Callable[[], bool] = never,
    ) -> Iterator[Channel]:
        self.limits_given.append(limits)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            sending = threading.Thread(target=self._send, args=(theirs,))
            sending.start()
            yield Channel(ours)
            ours.close()
            sending.join()

    def _send(self, theirs: socket.socket) -> None:
        # The client may have enough of it before its end.
        with suppress(OSError):
            theirs.sendall(self._reply)
            theirs.shutdown(socket.SHUT_WR)
