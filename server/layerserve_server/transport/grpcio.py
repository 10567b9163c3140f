"""The reference transport: grpcio's server, with prompt calls answered where they are polled, and pools of threads."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection

from layerserve_server.errors import BusyError, CallCancelledError, DeadlinePassedError
from layerserve_server.transport.burst import GONE, LATE, Bursts
from layerserve_server.transport.call import Ended, Handler, Observer, Routes, StreamHandler
from layerserve_server.transport.forwarding import Forwarder
from layerserve_server.transport.polling import FOREVER_SECONDS, OtherInternalsError, Poller
from layerserve_server.transport.status import failure

logger = logging.getLogger(__name__)

#: Streams that grpcio may start beyond the limit, so that they can be refused instead of waiting for a thread.
SPARE_STREAM_THREADS = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """What the transport takes; see the settings of the same names."""

    max_message_bytes: int
    rpc_threads: int
    max_streams: int
    max_calls: int


@dataclass(frozen=True, slots=True)
class SharedPort:
    """A port that several processes listen on. One of them, the owner, answers what the others don't."""

    #: Where the owner listens besides.
    socket: Path
    owner: bool


class GrpcioServer:
    """Serves routes, health and reflection on one port.

    Streams have threads of their own, so that watchers never keep a Predict waiting.
    """

    def __init__(
        self,
        routes: Routes,
        observer: Observer,
        limits: Limits,
        *,
        host: str,
        port: int,
        reflect: bool = True,
        certificate: tuple[Path, Path] | None = None,
        shared: SharedPort | None = None,
    ) -> None:
        """Raises OSError for a port that is taken."""
        self._observer = observer
        self._closing = Closing()
        self._max_streams = limits.max_streams
        self._streams = threading.Semaphore(limits.max_streams)
        self._stream_pool = ThreadPoolExecutor(limits.max_streams + SPARE_STREAM_THREADS, "stream")
        self._unary_pool = ThreadPoolExecutor(limits.rpc_threads, "rpc")
        self._server = grpc.server(
            self._unary_pool,
            options=[
                ("grpc.max_receive_message_length", limits.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # Two servers on one port would share its calls without a word.
                ("grpc.so_reuseport", 0 if shared is None else 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
            maximum_concurrent_rpcs=limits.max_calls,
        )
        self._services = routes.services()
        self._bursts = Bursts(observer, max_calls=limits.max_calls, max_message_bytes=limits.max_message_bytes)
        self._prompt = {method: routes.unary[method] for method in routes.prompt}
        self._server.add_generic_rpc_handlers((_RouteTable(self._handlers(routes)),))
        self._health_pool = ThreadPoolExecutor(1, "health")
        self._health = health.HealthServicer()
        self._forwarder: Forwarder | None = None
        if shared is not None and not shared.owner:
            self._forwarder = Forwarder(shared.socket, self._stream_pool)
            self._server.add_generic_rpc_handlers((self._forwarder,))
        else:
            self._add_health()
            if reflect:
                self._add_reflection()
        self.set_serving(False)
        if shared is not None and shared.owner:
            claim(host, port)
            self._bind(address(f"unix:{shared.socket}", 0), None)
        self.port = self._bind(address(host, port), certificate)

    def start(self) -> None:
        """Starts to take calls. Health stays NOT_SERVING until `set_serving`."""
        try:
            Poller(self._server, self._prompt, self._bursts).start()
        except OtherInternalsError as error:
            logger.warning("small models are answered more slowly than they could be: %s", error)
            self._server.start()

    def set_serving(self, serving: bool) -> None:
        """Sets what health says, for each service and overall."""
        answer = health_pb2.HealthCheckResponse
        status = answer.SERVING if serving else answer.NOT_SERVING
        for name in ("", *self._services):
            self._health.set(name, status)

    def stop(self, grace: float) -> None:
        """Takes no more calls, ends the streams, and gives calls under way `grace` seconds to finish."""
        self._health.enter_graceful_shutdown()
        stopped = self._server.stop(grace)
        self._closing.close()
        stopped.wait()
        self._bursts.close()
        if self._forwarder is not None:
            self._forwarder.close()
        for pool in (self._unary_pool, self._stream_pool, self._health_pool):
            pool.shutdown(wait=False, cancel_futures=True)

    def _bind(self, address: str, certificate: tuple[Path, Path] | None) -> int:
        try:
            if certificate is None:
                return self._server.add_insecure_port(address)
            chain, key = (path.read_bytes() for path in certificate)
            return self._server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)]))
        except RuntimeError as error:
            raise OSError(f"can't listen on {address}: is the port taken?") from error

    def _handlers(self, routes: Routes) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        return {
            **{
                method: grpc.unary_unary_rpc_method_handler(self._unary(method, handler))
                for method, handler in routes.unary.items()
            },
            **{
                method: grpc.unary_stream_rpc_method_handler(
                    self._stream(method, handler, lambda request: iter((request,)))
                )
                for method, handler in routes.server_streams.items()
            },
            **{
                method: grpc.stream_stream_rpc_method_handler(self._stream(method, handler, _caller_messages))
                for method, handler in routes.both_streams.items()
            },
        }

    def _unary(self, method: str, handler: Handler) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            call = GrpcioCall(method, request, context)
            with _Observed(self._observer, call, context):
                try:
                    handler(call)
                except Exception as error:
                    call.fail(error)
                return call.wait()

        return answer

    def _stream(
        self, method: str, handler: StreamHandler, messages: Callable[[Any], Iterator[bytes]]
    ) -> Callable[[Any, grpc.ServicerContext], Iterator[bytes]]:
        def answer(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            stream = GrpcioStream(method, messages(request), context, self._closing)
            with _Observed(self._observer, stream, context):
                if not self._streams.acquire(blocking=False):
                    raise BusyError(f"all {self._max_streams} streams of this server are in use", retry_after=1.0)
                try:
                    yield from handler(stream)
                finally:
                    self._streams.release()

        answer.experimental_thread_pool = self._stream_pool  # type: ignore[attr-defined]
        return answer

    def _add_health(self) -> None:
        """Health in a thread of its own: a probe must get its answer also while every other thread works.

        The servicer's own way to do so sets attributes of its class, which ties all servers of a process together.
        """
        servicer = self._health

        def check(request: Any, context: grpc.ServicerContext) -> Any:
            return servicer.Check(request, context)

        def watch(request: Any, context: grpc.ServicerContext, send_response_callback: Any = None) -> Any:
            return servicer.Watch(request, context, send_response_callback)

        check.experimental_thread_pool = self._health_pool  # type: ignore[attr-defined]
        watch.experimental_thread_pool = self._health_pool  # type: ignore[attr-defined]
        # Watchers hold no thread: the servicer calls back.
        watch.experimental_non_blocking = True  # type: ignore[attr-defined]
        codecs = {
            "request_deserializer": health_pb2.HealthCheckRequest.FromString,
            "response_serializer": health_pb2.HealthCheckResponse.SerializeToString,
        }
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(check, **codecs),
            "Watch": grpc.unary_stream_rpc_method_handler(watch, **codecs),
        }
        handler = grpc.method_handlers_generic_handler(health.SERVICE_NAME, methods)
        self._server.add_generic_rpc_handlers((handler,))

    def _add_reflection(self) -> None:
        names = [*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME]
        servicer = reflection.ReflectionServicer(names)

        def answer(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            yield from servicer.ServerReflectionInfo(requests, context)

        answer.experimental_thread_pool = self._stream_pool  # type: ignore[attr-defined]
        pb2 = reflection._reflection_pb2
        method = grpc.stream_stream_rpc_method_handler(
            answer,
            request_deserializer=pb2.ServerReflectionRequest.FromString,
            response_serializer=pb2.ServerReflectionResponse.SerializeToString,
        )
        # The messages of v1 and v1alpha are the same on the wire; new tools ask for v1 first.
        for service in (reflection.SERVICE_NAME, REFLECTION_V1):
            handler = grpc.method_handlers_generic_handler(service, {"ServerReflectionInfo": method})
            self._server.add_generic_rpc_handlers((handler,))


REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"


def claim(host: str, port: int) -> None:
    """Makes sure that nobody listens on a port that is about to be shared. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(f"can't listen on {address(host, port)}: is the port taken?") from error


def address(host: str, port: int) -> str:
    """Where to listen, as gRPC writes it. A host "unix:PATH" is a socket in the file system."""
    if host.startswith("unix:"):
        return host
    # An IPv6 address has colons of its own.
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class GrpcioCall:
    """A unary call whose grpcio thread waits for the answer (see transport.call.Call)."""

    def __init__(self, method: str, request: bytes, context: grpc.ServicerContext) -> None:
        self.method = method
        self.request = request
        self.model = ""
        self.version = ""
        self._context = context
        self._answered = threading.Event()
        self._encode: Callable[[], bytes] | None = None
        self._error: Exception | None = None
        self.arrived = time.monotonic()
        remaining = context.time_remaining()
        # Without a deadline grpcio gives None, or the centuries left until the end of its clock.
        self.deadline = None if remaining is None or remaining > FOREVER_SECONDS else self.arrived + remaining

    def on_gone(self, callback: Callable[[], None]) -> None:
        def gone() -> None:
            if self._encode is None and self._error is None:
                late = self.deadline is not None and time.monotonic() >= self.deadline
                self.fail(DeadlinePassedError(LATE) if late else CallCancelledError(GONE))
                callback()

        if not self._context.add_callback(gone):
            gone()

    def reply(self, encode: Callable[[], bytes]) -> None:
        if self._error is None:
            self._encode = encode
            self._answered.set()

    def client(self) -> object:
        return self._context.peer()

    def answer(self, message: bytes) -> None:
        self.reply(lambda: message)

    @property
    def answered(self) -> bool:
        return self._answered.is_set()

    def fail(self, error: Exception) -> None:
        if self._encode is None and self._error is None:
            self._error = error
            self._answered.set()

    def about(self, model: str, version: int) -> None:
        self.model, self.version = model, str(version)

    def afterwards(self, work: Callable[[], None]) -> None:
        work()

    def gather(self, work: Callable[[Sequence[Any]], None], item: object) -> None:
        work((item,))

    def may_block(self, work: Callable[[], None]) -> None:
        work()

    def wait(self) -> bytes:
        """Waits for the answer and encodes it. Raises the error that it is."""
        self._answered.wait()
        if self._encode is not None:
            return self._encode()
        raise self._error or CallCancelledError(GONE)


class Closing:
    """The moment at which streams must end, because the server stops."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: dict[object, Callable[[], None]] = {}
        self.closed = False

    def close(self) -> None:
        """Calls back everyone who asked."""
        with self._lock:
            self.closed = True
            callbacks = list(self._callbacks.values())
            self._callbacks.clear()
        for callback in callbacks:
            callback()

    def add(self, owner: object, callback: Callable[[], None]) -> None:
        """Asks to be called back; at once where the moment has passed."""
        with self._lock:
            if not self.closed:
                self._callbacks[owner] = callback
                return
        callback()

    def remove(self, owner: object) -> None:
        """Asks no more."""
        with self._lock:
            self._callbacks.pop(owner, None)


class GrpcioStream:
    """A stream whose grpcio thread runs the handler (see transport.call.Stream)."""

    def __init__(self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext, closing: Closing) -> None:
        self.method = method
        self.requests = requests
        self.model = ""
        self.version = ""
        self._context = context
        self._closing = closing

    def client(self) -> object:
        return self._context.peer()

    def open(self) -> bool:
        return self._context.is_active() and not self._closing.closed

    def on_closed(self, callback: Callable[[], None]) -> None:
        self._closing.add(self, callback)

        def gone() -> None:
            self._closing.remove(self)
            callback()

        if not self._context.add_callback(gone):
            gone()

    def about(self, model: str, version: int) -> None:
        self.model, self.version = model, str(version)


class _Observed:
    """Around the work for a call: tells the observer how it went, and turns an error into a status."""

    def __init__(self, observer: Observer, call: GrpcioCall | GrpcioStream, context: grpc.ServicerContext) -> None:
        self._observer = observer
        self._call = call
        self._context = context

    def __enter__(self) -> None:
        self._began = time.perf_counter()
        self._observer.calls_began(self._call.method, 1)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        call = self._call
        if isinstance(error, GeneratorExit):
            error = CallCancelledError(GONE)
        if error is not None and not isinstance(error, Exception):
            return
        wire = failure(error, call.method) if error is not None else None
        status = wire.code.name if wire else "OK"
        seconds = time.perf_counter() - self._began
        self._observer.calls_ended((Ended(call.method, call.model, call.version, status, seconds),))
        if wire is not None and kind is not GeneratorExit:
            self._context.set_trailing_metadata(wire.metadata)
            self._context.abort(wire.code, wire.text)


class _RouteTable(grpc.GenericRpcHandler):
    def __init__(self, handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._handlers.get(handler_call_details.method)


def _caller_messages(requests: Iterator[bytes]) -> Iterator[bytes]:
    """A caller's messages. grpcio ends the iteration of a caller that went away with a bare Exception."""
    while True:
        try:
            message = next(requests)
        except StopIteration:
            return
        except Exception as error:
            raise CallCancelledError(GONE) from error
        yield message
