"""Hands calls on to another server on the same machine, as bytes, whatever their methods are."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc

#: Metadata that belongs to a connection, or that grpcio writes itself.
OWN_KEYS = ("user-agent", "content-type", "te")
#: More than any caller means by a deadline, in seconds.
FOREVER_SECONDS = 1e9


class Forwarder(grpc.GenericRpcHandler):
    """Takes every method. A unary call is a stream of one message on the wire, so all are streams here."""

    def __init__(self, socket: Path, pool: ThreadPoolExecutor) -> None:
        """`socket` is where the other server listens; `pool` has a thread for each call under way."""
        self._channel = grpc.insecure_channel(
            f"unix:{socket}",
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
        )
        self._pool = pool

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method."""
        forward = partial(self._forward, handler_call_details.method)
        forward.experimental_thread_pool = self._pool  # type: ignore[attr-defined]
        return grpc.stream_stream_rpc_method_handler(forward)

    def close(self) -> None:
        """Ends all calls under way."""
        self._channel.close()

    def _forward(self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        remaining = context.time_remaining()
        open_call: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(method)
        call = open_call(
            _until_gone(requests),
            timeout=None if remaining is None or remaining > FOREVER_SECONDS else remaining,
            metadata=tuple(pair for pair in context.invocation_metadata() if pair[0] not in OWN_KEYS),
        )

        def gone() -> None:
            call.cancel()

        if not context.add_callback(gone):
            gone()
        try:
            yield from call
        except grpc.RpcError:
            context.set_trailing_metadata(call.trailing_metadata())
            context.abort(call.code(), call.details())
        context.set_trailing_metadata(call.trailing_metadata())


def _until_gone(requests: Iterator[bytes]) -> Iterator[bytes]:
    """A caller's messages. grpcio ends the iteration of a caller that went away with an error."""
    try:
        yield from requests
    except Exception:
        return
