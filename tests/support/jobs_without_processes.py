"""Jobs that no process of their own does: they reply what a test gives, or are forked from the test's process."""

from __future__ import annotations

import gc
import os
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from layerserve_server.jobs import program
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


class Forking(Jobs):
    """Forks for each job from the process of the test, which has the patches of the test."""

    @contextmanager
    def connection(
        self,
        job: Job,
        arguments: Mapping[str, Any],
        limits: JobLimits,
        seconds: float,
        gone: Callable[[], bool] = never,
    ) -> Iterator[Channel]:
        ours, theirs = socket.socketpair()
        with ours:
            child = os.fork()
            if child == 0:
                try:
                    ours.close()
                    # In inherited garbage, servers of grpc.aio would wait for threads that don't exist here.
                    gc.disable()
                    program.handle(Channel(theirs))
                except OSError:
                    pass  # the test has closed the channel
                except BaseException:
                    traceback.print_exc()
                finally:
                    # Without the tests' process going on in it.
                    os._exit(0)
            theirs.close()
            channel = Channel(ours)
            channel.send({"function": job.function, "nice": job.nice, "limits": asdict(limits), "arguments": arguments})
            try:
                yield channel
            finally:
                ours.close()
                _, status = os.waitpid(child, 0)
                assert status == 0, f"the child that supervises the job ended with status {status}"
