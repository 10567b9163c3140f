"""The ASGI application: each request becomes a call of a gRPC method's handler (see `exchange`)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from layerserve_server.access.caller import Caller
from layerserve_server.access.gate import Pairs
from layerserve_server.errors import (
    CallCancelledError,
    ForbiddenError,
    InvalidRequestError,
    UnknownMethodError,
    safe_text,
)
from layerserve_server.transport.call import Routes
from layerserve_server.transport.chunking import CHUNK_BYTES
from layerserve_server.transport.event_batch import EventBatches, deadline_in
from layerserve_server.transport.http.call import TIMEOUT, HttpCall, timeout_of
from layerserve_server.transport.http.connection import KEY, HttpConnection
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, HttpRoute, Plain, WouldBlockError
from layerserve_server.transport.http.hosts import Hosts
from layerserve_server.transport.http.statuses import error_reply, failure_reply
from layerserve_server.transport.perimeter.compression import is_compressed
from layerserve_server.transport.perimeter.limits import (
    COUNTED_BYTES,
    PROMPT_BYTES,
    REPLYING_THREADS,
    TRANSLATING_THREADS,
    Limits,
)
from layerserve_server.transport.status import GONE, Failure, failure

logger = logging.getLogger(__name__)

#: Codings of bodies that are decompressed, and all that aren't refused.
COMPRESSING = ("gzip", "x-gzip", "deflate")
CODINGS = ("", "identity", *COMPRESSING)
#: Headers of which a request may have one. Of several, another server on the way might take another one.
SINGLE = ("host", "origin", "transfer-encoding", "content-encoding", TIMEOUT, "inference-header-content-length")


#: What to do about paths that other servers have on this port.
_ELSEWHERE = {"/metrics": "ask the metrics port for it (--metrics-port, 8002 by default)"}


class HttpApp:
    """Answers requests. Runs in the event loop to whose thread `batches` is bound."""

    def __init__(
        self,
        routes: Sequence[HttpRoute],
        plain: Mapping[str, Plain],
        handlers: Routes,
        batches: EventBatches,
        limits: Limits,
        hosts: Hosts,
    ) -> None:
        """`plain` are the replies of paths that every caller may read, and `handlers` those of the routes' methods.

        `hosts` has the names under which browsers reach the server.
        """
        self._handlers = handlers
        self._batches = batches
        self._limits = limits
        self._hosts = hosts
        self._receiving: set[HttpCall] = set()
        batches.receiving = self._receiving
        self._translating = ThreadPoolExecutor(TRANSLATING_THREADS, "translate")
        self._replying = ThreadPoolExecutor(REPLYING_THREADS, "reply")
        self._finishing = False
        by_path: dict[str, dict[str, HttpRoute]] = {}
        for route in routes:
            by_path.setdefault(route.path, {})[route.verb] = route
        found = [Route(path, _Endpoint(partial(self._answer, verbs))) for path, verbs in by_path.items()]
        found += [Route(path, _Endpoint(partial(self._plain, make))) for path, make in plain.items()]
        self._router = Router(found, redirect_slashes=False, default=self._unknown)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        try:
            await self._router(scope, receive, send)
        except Exception:
            # uvicorn answers with 500, and its log is off: it has a line for whatever clients do wrong.
            logger.exception("a request over HTTP failed")
            raise

    def close(self) -> None:
        """Ends the threads."""
        for pool in (self._translating, self._replying):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _unknown(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        hint = _ELSEWHERE.get(path, "/openapi.json lists those that do")
        text = f"path '{safe_text(path, 200)}' doesn't exist on this server; {hint}"
        await _send(scope, send, error_reply(text, 404, "unknown_path"), unread=True)

    async def _plain(self, make: Plain, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await self._wrong_verb(scope, send, ("GET",))
        else:
            accept = b", ".join(value for name, value in scope["headers"] if name == b"accept")
            await _send(scope, send, make(accept.decode("latin-1")))

    async def _wrong_verb(self, scope: Scope, send: Send, verbs: Collection[str]) -> None:
        expected = ", ".join(sorted(verbs))
        text = f"path '{safe_text(scope['path'], 200)}': got {scope['method']}, expected {expected}"
        await _send(scope, send, error_reply(text, 405, "unknown_method", ("allow", expected)), unread=True)

    async def _answer(self, verbs: Mapping[str, HttpRoute], scope: Scope, receive: Receive, send: Send) -> None:
        route = verbs.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if route is None:
            await self._wrong_verb(scope, send, verbs)
            return
        connection: HttpConnection = scope[KEY]
        pairs = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        headers = dict(pairs)
        loop, now = connection.loop, time.monotonic()
        call = HttpCall(self._batches, route.method, pairs, connection, loop, now)
        exchange = _Exchange(self, route, scope, headers, call)
        connection.call = call
        self._batches.begin(call)
        timer = None
        try:
            read = await self._receive(call, headers, connection, receive)
            if read:
                if call.deadline is not None:
                    timer = loop.call_at(loop.time() + call.deadline - time.monotonic(), call.gone)
                self._batches.take(call, exchange.handle)
            self._finish_soon(loop)
            outcome = await call.ended
            connection.call = None
            if timer is not None:
                timer.cancel()
            await connection.writable(0)
            reply = await exchange.reply_to(outcome, loop)
            if not isinstance(outcome, Failure) and (tail := call.tail()):
                reply = replace(reply, headers=(*reply.headers, *tail))
            await _send(scope, send, reply, unread=not read)
            await connection.writable(len(reply.body))
        finally:
            connection.call = None
            call.drop()

    async def _receive(
        self, call: HttpCall, headers: Mapping[str, str], connection: HttpConnection, receive: Receive
    ) -> bool:
        """Reads the body of a request. Returns False if the call was refused instead."""
        self._receiving.add(call)
        timer = connection.loop.call_later(self._limits.stream_idle_seconds, connection.late_body)
        try:
            _refuse_several(call.metadata)
            call.deadline = deadline_in(timeout_of(headers), call.arrived)
            # Before anything of the body is looked at.
            self._batches.admit(call)
            _refuse_other_origins(headers, self._hosts, call.caller)
            coding = headers.get("content-encoding", "").lower()
            if coding not in CODINGS:
                raise InvalidRequestError(f"content-encoding: got '{safe_text(coding, 80)}', expected gzip or deflate")
            # httptools refuses what isn't a number of 64 bits, but not thousands of zeros before it.
            self._limits.check_size(int(headers.get("content-length", "").lstrip("0") or 0))
            call.request = await self._body(call, receive)
            if coding in COMPRESSING and call.request and not is_compressed(call.request):
                raise InvalidRequestError(f"content-encoding: got '{coding}' and a body that isn't gzip or zlib data")
        except Exception as error:
            call.fail(error)
            return False
        finally:
            timer.cancel()
            self._receiving.discard(call)
        return True

    async def _body(self, call: HttpCall, receive: Receive) -> bytes:
        """Returns the body. What has come so far counts towards the memory budget. Raises as `MemoryBudget.take`."""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallCancelledError(GONE)
        if not message.get("more_body"):
            # Counted by `EventBatches.take`.
            whole: bytes = message["body"]
            return whole
        pieces, size = [message["body"]], len(message["body"])
        held = 0
        try:
            while message.get("more_body"):
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise CallCancelledError(GONE)
                pieces.append(message["body"])
                size += len(pieces[-1])
                self._limits.check_size(size)
                if size - held >= COUNTED_BYTES:
                    self._batches.memory.take(size - held)
                    held = size
            return b"".join(pieces)
        finally:
            self._batches.memory.give(held)

    def _finish_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ends the event batch after the calls that have arrived at the same time."""
        if not self._finishing:
            self._finishing = True
            loop.call_soon(self._finish)

    def _finish(self) -> None:
        self._finishing = False
        self._batches.finish()


class _Exchange:
    """The translations of a request and of its reply."""

    __slots__ = ("_app", "_call", "_headers", "_names", "_query", "_reply", "_route")

    def __init__(
        self, app: HttpApp, route: HttpRoute, scope: Scope, headers: Mapping[str, str], call: HttpCall
    ) -> None:
        self._app = app
        self._route = route
        self._names: Mapping[str, str] = scope["path_params"]
        self._query: str = scope["query_string"].decode("latin-1")
        self._headers = headers
        self._call = call
        self._reply: Callable[[bytes], HttpReply] | None = None

    def handle(self, call: Any) -> None:
        """Translates the request, and passes the message to the method's handler."""
        app = self._app
        if len(call.request) > PROMPT_BYTES:
            app._translating.submit(call.attempt, partial(self._translate, may_block=True))
            return
        try:
            self._translate(may_block=False)
        except WouldBlockError:
            call.in_pool(partial(self._translate, may_block=True))

    def _translate(self, *, may_block: bool) -> None:
        call, method = self._call, self._route.method
        request = HttpRequest(self._names, self._query, self._headers, call.request, call.caller, may_block)
        try:
            message, self._reply = self._route.translate(request)
        except UnicodeEncodeError:
            raise InvalidRequestError(
                "the body: got a string with half of a surrogate pair, expected Unicode"
            ) from None
        self._app._limits.check_size(len(message))
        if len(message) >= COUNTED_BYTES:
            call.hold(len(message))
        call.request = message
        handler = self._app._handlers.unary.get(method)
        if handler is None:
            raise UnknownMethodError(f"method '{method}' doesn't exist on this server")
        if method in self._app._handlers.prompt:
            handler(call)
        else:
            self._app._batches.work(call, handler, lists=method in self._app._handlers.lists)

    async def reply_to(self, outcome: bytes | Failure, loop: asyncio.AbstractEventLoop) -> HttpReply:
        """Returns the reply for the call's reply message or error."""
        translate = self._reply
        if isinstance(outcome, Failure):
            return failure_reply(outcome)
        assert translate is not None
        try:
            if len(outcome) <= PROMPT_BYTES and not self._route.slow_replies:
                return translate(outcome)
            reply = await loop.run_in_executor(self._app._replying, translate, outcome)
            self._call.hold(len(reply.body))
            return reply
        except Exception as error:
            return failure_reply(failure(error, self._route.method))


class _Endpoint:
    """An ASGI application that isn't a function, as starlette expects them in routes."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(scope, receive, send)


def _refuse_several(pairs: Pairs) -> None:
    """Raises InvalidRequestError if a header of which a request may have one is given several times."""
    counts = Counter(name for name, _ in pairs if name in SINGLE)
    for name, count in counts.items():
        if count > 1:
            raise InvalidRequestError(f"header '{name}': got {count} headers, expected one")


def _refuse_other_origins(headers: Mapping[str, str], hosts: Hosts, caller: Caller) -> None:
    """Raises ForbiddenError for a request that a browser sends for a page of another site.

    Such a page may send, though not read: without this, any page could unload the models of a server on the loopback.
    """
    origin = headers.get("origin")
    if origin is None:
        return
    hosts.check(headers, caller)
    host = headers.get("host", "")
    if origin.partition("://")[2] != host:
        raise ForbiddenError(
            f"header 'origin': got '{safe_text(origin, 80)}', expected the host '{safe_text(host, 80)}' as its address"
        )


async def _send(scope: MutableMapping[str, Any], send: Send, reply: HttpReply, *, unread: bool = False) -> None:
    """Sends a reply. After a request of which a part is `unread` the connection is closed."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers]
    headers.append((b"content-length", b"%d" % len(reply.body)))
    connection: HttpConnection = scope[KEY]
    if unread or connection.last:
        headers.append((b"connection", b"close"))
    start = {"type": "http.response.start", "status": reply.status, "headers": headers}
    if len(reply.body) > PROMPT_BYTES:
        await send(start)
        await _send_chunks(connection, send, memoryview(reply.body))
        return
    writes = connection.writes
    writes.join()
    try:
        await send(start)
        await send({"type": "http.response.body", "body": reply.body})
    finally:
        writes.flush()


async def _send_chunks(connection: HttpConnection, send: Send, body: memoryview) -> None:
    """Sends a long body in chunks, each when the client has read most of those before: asyncio copies what waits."""
    with connection.patience(len(body)):
        for at in range(0, len(body), CHUNK_BYTES):
            more = at + CHUNK_BYTES < len(body)
            await send({"type": "http.response.body", "body": body[at : at + CHUNK_BYTES], "more_body": more})
