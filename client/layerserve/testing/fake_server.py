"""The fake server, which answers all methods in memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import grpc

from layerserve import slice_table
from layerserve.calls.health_check import CHECK, HealthCheckRequest, HealthCheckResponse
from layerserve.testing.fake_management import FakeManagement
from layerserve.testing.fake_runs import FakeRuns


class FakeServer(FakeManagement, FakeRuns):
    """A server in this process, on a free port of the loopback interface. A context manager.

    `address` is its address, `serving` its health status, `calls` the (method, request) pairs received so far,
    `uploaded` the content of the files of the last upload by path, `canaries` the shares of canaries by model, `runs`
    the training runs by id, and `misplaced` what a client's `server` has as such. `train_logs` is the function that
    returns the logs of an epoch, counted from 1. `credentials` are for TLS. With a `token`, calls that don't send it
    fail with Unauthenticated.

    Slices of the client are attributes here, too: `datasets` and `estimates`.
    """

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        super().__init__()
        self._slices = {name: module.Fake(self) for name, module in slice_table.modules("fake")}
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=16), options=[("grpc.max_receive_message_length", -1)]
        )
        check = grpc.unary_unary_rpc_method_handler(
            self._check,
            request_deserializer=HealthCheckRequest.FromString,
            response_serializer=HealthCheckResponse.SerializeToString,
        )
        health = grpc.method_handlers_generic_handler(CHECK.service, {CHECK.name: check})
        self._server.add_generic_rpc_handlers((health, *self.handlers([self, *self._slices.values()])))
        if credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.address = f"127.0.0.1:{port}"

    def __getattr__(self, name: str) -> Any:
        """Returns the fake of a slice, such as `server.datasets`."""
        try:
            return self.__dict__["_slices"][name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}") from None

    def __enter__(self) -> FakeServer:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _check(self, request: HealthCheckRequest, context: Any) -> HealthCheckResponse:
        self.metadata.append(dict(context.invocation_metadata()))
        return HealthCheckResponse(self.serving)

    def stop(self) -> None:
        """Stops immediately; open calls are aborted."""
        self._stopped.set()
        ended = self._server.stop(None)
        # After the calls were aborted; otherwise held runs would continue and finish.
        self._free.set()
        ended.wait()
