"""Waiting for a server and its models, by gRPC's standard health check."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable

from layerserve.calls.addresses import may_be_several
from layerserve.calls.flow import Call, Flow, Pause
from layerserve.calls.health_check import CHECK, HealthCheckRequest, HealthCheckResponse
from layerserve.errors import DeadlineExceeded, LayerserveError, ModelNotReady, NotFound, Unavailable
from layerserve.models.info import get_model
from layerserve.v1.tensor_pb2 import ModelSpec

#: Time between two checks, in seconds.
POLL_SECONDS = 0.2
#: The system's text if no process listens at an address. A server has its port from before it is ready to its end.
NO_LISTENER = os.strerror(errno.ECONNREFUSED)


def wait_until_ready(address: str, timeout: float, model: ModelSpec | None = None) -> Flow[None]:
    """Flow that polls until the server is serving, and then until it has a model that is ready.

    After `timeout` seconds, raises what was known last. Raises ModelNotReady at once if the model failed to load, and
    Unavailable if the only server of the address has answered, and then no process listens there any more.
    """
    end = time.monotonic() + timeout
    alone = "" if may_be_several(address) else address
    yield from _poll(_serving(address), end, alone)
    if model is not None:
        yield from _poll(_ready(model), end, alone, answered=True)


def _serving(address: str) -> Callable[[], Flow[LayerserveError | None]]:
    def check() -> Flow[LayerserveError | None]:
        reply: HealthCheckResponse = yield Call(CHECK, HealthCheckRequest())
        if reply.serving:
            return None
        return Unavailable(f"the server at {address} is still loading its models, or is stopping")

    return check


def _ready(model: ModelSpec) -> Callable[[], Flow[LayerserveError | None]]:
    def check() -> Flow[LayerserveError | None]:
        try:
            info = yield from get_model(model)
        except NotFound as error:  # it may still be uploaded
            return error
        if info.state == "failed":
            raise ModelNotReady(f"model {info.name!r} version {info.version} failed to load: {info.reason}")
        if info.state in ("ready", "available"):
            return None
        return Unavailable(f"model {info.name!r} version {info.version} is {info.state}")

    return check


def _poll(
    check: Callable[[], Flow[LayerserveError | None]], end: float, alone: str, *, answered: bool = False
) -> Flow[None]:
    """Flow that repeats a check until it returns None. Raises the last error at the time `end`.

    `alone` is the address if it is that of one server, whose end it also raises once that has `answered`.
    """
    failure: LayerserveError | None = None
    while True:
        try:
            failure = yield from check()
            if failure is None:
                return
            answered = True
        except Unavailable as error:
            if answered and alone and NO_LISTENER in error.details:
                raise Unavailable(f"the server at {alone} has ended before it was ready") from None
            failure = error
        except DeadlineExceeded as error:
            failure = failure or error
        if time.monotonic() >= end:
            raise failure
        yield Pause(POLL_SECONDS)
