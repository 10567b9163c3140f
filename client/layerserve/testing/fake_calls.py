"""The calls of a fake server: recorded, failed as planned, and answered by the methods of the same names."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc

from layerserve.calls.methods import METHODS, Method
from layerserve.errors import (
    Internal,
    LayerserveError,
    Unauthenticated,
    trailing_metadata,
)


class FakeCalls:
    """The calls so far, and the errors of the next ones."""

    def __init__(self) -> None:
        self.token: str | None = None
        self.calls: list[tuple[str, Any]] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self._failures: defaultdict[str, deque[LayerserveError]] = defaultdict(deque)

    def fail_next(self, error: LayerserveError, method: str = "Predict", times: int = 1) -> None:
        """Makes the next calls of an RPC, given by its name, fail with an error."""
        self._failures[method].extend([error] * times)

    @contextmanager
    def answering(self, method: str, request: Any, context: Any) -> Iterator[None]:
        """Records a call, raises the error planned for it, and sends errors as a server does."""
        self.calls.append((method, request))
        self.metadata.append(dict(context.invocation_metadata()))
        try:
            if self.token is not None and self.metadata[-1].get("authorization") != f"Bearer {self.token}":
                raise Unauthenticated("token: got none or another, expected a valid bearer token")
            if self._failures[method]:
                raise self._failures[method].popleft()
            if "layerserve-timing" in self.metadata[-1]:
                context.set_trailing_metadata(
                    (("server-timing", "queue;dur=0.000, compute;dur=0.000, total;dur=0.000"),)
                )
            yield
        except LayerserveError as error:
            self._abort(context, error)
        except Exception as error:
            if context.code() is not None:  # aborted already
                raise
            self._abort(context, Internal(f"{type(error).__name__}: {error}"))

    def _abort(self, context: Any, error: LayerserveError) -> None:
        context.set_trailing_metadata(trailing_metadata(error))
        context.abort(error.status, error.details)

    def handlers(self, parts: Sequence[object]) -> list[grpc.GenericRpcHandler]:
        """Returns what answers the RPCs of the contract: methods of the same names of `parts`."""
        services: defaultdict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = defaultdict(dict)
        for method in METHODS.values():
            function = next((getattr(part, method.name) for part in parts if hasattr(part, method.name)), None)
            if function is not None:
                services[method.service][method.name] = self._handler(method, function)
        return [grpc.method_handlers_generic_handler(service, found) for service, found in services.items()]

    def _handler(
        self, method: Method[Any, Any], function: Callable[[Any, Any], Any]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        def reply(request: Any, context: Any) -> Any:
            with self.answering(method.name, request, context):
                return function(request, context)
            raise AssertionError("an abort raises")

        def replies(request: Any, context: Any) -> Iterator[Any]:
            with self.answering(method.name, request, context):
                yield from function(request, context)

        kinds = (
            grpc.stream_stream_rpc_method_handler,
            grpc.unary_stream_rpc_method_handler,
            grpc.unary_unary_rpc_method_handler,
        )
        # A method that reads a stream records its first message, or none, by itself.
        answers = (function, replies, reply)
        index = 0 if method.streams_requests else 1 if method.streams_replies else 2
        return kinds[index](answers[index], method.request.FromString, method.reply.SerializeToString)
