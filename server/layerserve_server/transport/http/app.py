"""What answers requests: each becomes a call of a gRPC method's handler, or of its route's own (see `exchange`)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from layerserve_server.access.caller import Caller
from layerserve_server.errors import (
    BusyError,
    ForbiddenError,
    InvalidRequestError,
    UnknownMethodError,
    safe_text,
)
from layerserve_server.transport.call import Routes
from layerserve_server.transport.event_batch import EventBatches, deadline_in
from layerserve_server.transport.http.call import HttpCall, timeout_of
from layerserve_server.transport.http.connection import HttpConnection, Received
from layerserve_server.transport.http.exchange import (
    HttpReply,
    HttpRequest,
    HttpRoute,
    Plain,
    UnwrittenReply,
    WouldBlockError,
)
from layerserve_server.transport.http.hosts import Hosts
from layerserve_server.transport.http.relay import RelayedRequest
from layerserve_server.transport.http.routes import Found, HttpRoutes
from layerserve_server.transport.http.statuses import error_reply, failure_reply
from layerserve_server.transport.perimeter.compression import is_compressed
from layerserve_server.transport.perimeter.limits import (
    COUNTED_BYTES,
    PROMPT_BYTES,
    REPLYING_THREADS,
    TRANSLATING_THREADS,
    Limits,
)
from layerserve_server.transport.status import Failure, failure

logger = logging.getLogger(__name__)

#: Codings of bodies that are decompressed, and all that aren't refused.
COMPRESSING = ("gzip", "x-gzip", "deflate")
CODINGS = ("", "identity", *COMPRESSING)
#: Tells a client that waits for it to send the body.
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


#: What to do about paths that other servers have on this port.
_ELSEWHERE = {"/metrics": "ask the metrics port for it (--metrics-port, 8002 by default)"}


class HttpApp:
    """Answers the requests of all connections. Runs in the event loop to whose thread `batches` is bound."""

    def __init__(
        self,
        routes: Sequence[HttpRoute],
        plain: Mapping[str, Plain],
        handlers: Routes,
        batches: EventBatches,
        limits: Limits,
        hosts: Hosts,
        loop: asyncio.AbstractEventLoop,
        main: Path | None = None,
    ) -> None:
        """`plain` are the replies of paths that every caller may read, and `handlers` those of the routes' methods.

        `hosts` has the names under which browsers reach the server. A worker passes on what it has no route for to the
        socket of the `main` process.
        """
        self.loop = loop
        self._handlers = handlers
        self._batches = batches
        self._limits = limits
        self._hosts = hosts
        self._receiving: set[HttpCall] = set()
        batches.receiving = self._receiving
        self._translating = ThreadPoolExecutor(TRANSLATING_THREADS, "translate")
        self._replying = ThreadPoolExecutor(REPLYING_THREADS, "reply")
        self._finishing = False
        self._routes = HttpRoutes(routes, plain)
        self._main = main
        #: Replies that take several steps, and requests that are passed on.
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def sending(self) -> bool:
        """Whether replies are being sent in several steps, or requests passed on."""
        return bool(self._sending)

    def close(self) -> None:
        """Ends the threads."""
        for pool in (self._translating, self._replying):
            pool.shutdown(wait=False, cancel_futures=True)

    def begin(self, connection: HttpConnection, request: Received) -> None:
        """Begins the request whose turn it is, of which at least the head has come."""
        head = request.head
        found = head.found
        if found is None:
            found = head.found = self._routes.find(head.path)
        route = found.verbs.get(head.verb if head.verb != "HEAD" else "GET")
        if route is None and self._main is not None:
            relayed = request.call = connection.call = RelayedRequest(connection, request, self._main)
            request.relayed = True
            self._keep(relayed.start())
        elif route is None:
            self._reply_without_call(connection, request, found)
        else:
            self._begin_call(connection, request, route)

    def _begin_call(self, connection: HttpConnection, request: Received, route: HttpRoute) -> None:
        head, now = request.head, time.monotonic()
        call = request.call = connection.call = HttpCall(self, self._batches, route, head, connection, now)
        self._batches.begin(call)
        if request.complete and head.plain:
            call.request = request.take()
            self._batches.take(call, self._handle)
            self._finish_soon()
        else:
            self._receive(call, connection, request)

    def proceed(self, request: Received) -> None:
        """Takes what has come of the body of a request that was begun."""
        call = request.call
        if isinstance(call, RelayedRequest):
            call.proceed()
            return
        if not isinstance(call, HttpCall) or call not in self._receiving:
            return
        try:
            if request.size - call.held >= COUNTED_BYTES:
                self._limits.check_size(request.size)
                call.hold(request.size - call.held)
            if not request.complete:
                return
            call.request = request.take()
            coding = call.head.headers.get("content-encoding", "").lower()
            if coding in COMPRESSING and call.request and not is_compressed(call.request):
                raise InvalidRequestError(f"content-encoding: got '{coding}' and a body that isn't gzip or zlib data")
        except Exception as error:
            self._refuse(call, error)
            return
        self._receiving.discard(call)
        call.stop_timer()
        # Counted anew as a whole.
        call.drop()
        if call.deadline is not None:
            call.timer = self.loop.call_at(self.loop.time() + call.deadline - time.monotonic(), call.gone)
        self._batches.take(call, self._handle)
        self._finish_soon()

    def end(self, call: HttpCall, outcome: bytes | Failure) -> None:
        """Sends the reply message or the error of a call."""
        self._receiving.discard(call)
        call.stop_timer()
        connection: HttpConnection = call.connection  # type: ignore[assignment]
        if connection.call is not call or connection.closed:
            # The client has left.
            call.drop()
            return
        connection.call = None
        prompt = isinstance(outcome, Failure) or (len(outcome) <= PROMPT_BYTES and not call.route.slow_replies)
        if connection.write_paused or not prompt:
            self._begin_sending(self._end_slowly(call, connection, outcome))
            return
        try:
            if type(outcome) is bytes and call.reply is None:
                connection.send_written(outcome, call.tail())
            else:
                reply = self._reply_to(call, outcome)
                if len(reply.body) > PROMPT_BYTES:
                    self._begin_sending(self._send_slowly(call, connection, reply))
                    return
                connection.send(reply, unread=call.unread)
        except Exception:
            self._failed(connection)
        if connection.write_paused:
            self._begin_sending(self._drop_later(call, connection))
        else:
            call.drop()

    def _reply_without_call(self, connection: HttpConnection, request: Received, found: Found) -> None:
        """Answers a request that is no call: to a path without rights, or a wrong one."""
        head = request.head
        try:
            if found.plain is not None and head.verb in ("GET", "HEAD"):
                accept = ", ".join(str(value) for name, value in head.pairs if name == "accept")
                reply = found.plain(accept)
                if len(reply.body) > PROMPT_BYTES:
                    self._begin_sending(self._send_slowly(None, connection, reply))
                else:
                    connection.send(reply, unread=not request.complete)
                return
            path = safe_text(head.path, 200)
            if found.plain is None and not found.verbs:
                hint = _ELSEWHERE.get(head.path, "/openapi.json lists those that do")
                text = f"path '{path}' doesn't exist on this server; {hint}"
                connection.send(error_reply(text, 404, "unknown_path"), unread=True)
                return
            expected = ", ".join(sorted(found.verbs or ("GET",)))
            text = f"path '{path}': got {head.verb}, expected {expected}"
            connection.send(error_reply(text, 405, "unknown_method", ("allow", expected)), unread=True)
        except Exception:
            self._failed(connection)

    def _receive(self, call: HttpCall, connection: HttpConnection, request: Received) -> None:
        """Checks what is known of a request before its body is looked at, and takes what has come of that."""
        self._receiving.add(call)
        head = call.head
        try:
            head.refuse_several()
            call.deadline = deadline_in(timeout_of(head.headers), call.arrived)
            self._batches.admit(call)
            _refuse_other_origins(head.headers, self._hosts, call.caller)
            coding = head.headers.get("content-encoding", "").lower()
            if coding not in CODINGS:
                raise InvalidRequestError(f"content-encoding: got '{safe_text(coding, 80)}', expected gzip or deflate")
            self._limits.check_size(head.length)
        except Exception as error:
            self._refuse(call, error)
            return
        if not request.complete:
            call.timer = self.loop.call_later(self._limits.stream_idle_seconds, connection.late_body)
            if head.expects_continue():
                connection.transport.write(CONTINUE)
        self.proceed(request)

    def _refuse(self, call: HttpCall, error: Exception) -> None:
        call.unread = True
        call.fail(error)
        self._finish_soon()

    def _finish_soon(self) -> None:
        """Ends the event batch after the calls that have arrived at the same time."""
        if not self._finishing:
            self._finishing = True
            self.loop.call_soon(self._finish)

    def _finish(self) -> None:
        self._finishing = False
        self._batches.finish()

    # Calls with a message of gRPC, or of a route's own handler.

    def _handle(self, call: Any) -> None:
        """Passes a request to its handler."""
        if call.route.handler is not None:
            head = call.head
            handler = head.handler
            if handler is None:
                assert head.found is not None
                handler = head.handler = call.route.handler(head.found.names, head.headers)
            handler(call)
        elif len(call.request) > PROMPT_BYTES:
            self._translating.submit(call.attempt, partial(self._translate, call, may_block=True))
        else:
            try:
                self._translate(call, may_block=False)
            except WouldBlockError:
                call.in_pool(partial(self._translate, call, may_block=True))

    def _translate(self, call: HttpCall, *, may_block: bool) -> None:
        """Translates a request, and passes the message to the method's handler."""
        head, route = call.head, call.route
        assert route.translate is not None
        assert head.found is not None
        request = HttpRequest(head.found.names, head.query, head.headers, call.request, call.caller, may_block)
        message, call.reply = route.translate(request)
        self._limits.check_size(len(message))
        if len(message) >= COUNTED_BYTES:
            call.hold(len(message))
        call.request = message
        handler = self._handlers.unary.get(route.method)
        if handler is None:
            raise UnknownMethodError(f"method '{route.method}' doesn't exist on this server")
        if route.method in self._handlers.prompt:
            handler(call)
        else:
            self._batches.work(call, handler, lists=route.method in self._handlers.lists)

    def _reply_to(self, call: HttpCall, outcome: bytes | Failure) -> HttpReply:
        """Returns the reply for a call's reply message or error."""
        if isinstance(outcome, Failure):
            return failure_reply(outcome)
        try:
            if isinstance(outcome, UnwrittenReply):
                reply = outcome.write(outcome)
            else:
                assert call.reply is not None
                reply = call.reply(outcome)
        except Exception as error:
            return failure_reply(failure(error, call.method))
        tail = call.tail()
        return replace(reply, headers=(*reply.headers, *tail)) if tail else reply

    # Replies that are long, or for clients that haven't read those before.

    def _begin_sending(self, work: Coroutine[Any, Any, None]) -> None:
        self._keep(self.loop.create_task(work))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _end_slowly(self, call: HttpCall, connection: HttpConnection, outcome: bytes | Failure) -> None:
        try:
            await connection.writable(0)
            if type(outcome) is bytes and call.reply is None:
                await connection.send_long_written(outcome, call.tail())
                await connection.writable(len(outcome))
            else:
                await self._send_slowly(call, connection, await self._reply_slowly(call, outcome))
        except Exception:
            self._failed(connection)
        finally:
            call.drop()

    async def _send_slowly(self, call: HttpCall | None, connection: HttpConnection, reply: HttpReply) -> None:
        """Sends a reply, and counts its call towards the memory budget until its client has read it."""
        try:
            if len(reply.body) > PROMPT_BYTES:
                await connection.send_long(reply)
            else:
                connection.send(reply, unread=call is not None and call.unread)
            await connection.writable(len(reply.body))
        except Exception:
            self._failed(connection)
        finally:
            if call is not None:
                call.drop()

    async def _reply_slowly(self, call: HttpCall, outcome: bytes | Failure) -> HttpReply:
        if isinstance(outcome, Failure) or (len(outcome) <= PROMPT_BYTES and not call.route.slow_replies):
            return self._reply_to(call, outcome)
        reply = await self.loop.run_in_executor(self._replying, self._reply_to, call, outcome)
        try:
            call.hold(len(reply.body))
        except BusyError as error:
            return failure_reply(failure(error, call.method))
        return reply

    async def _drop_later(self, call: HttpCall, connection: HttpConnection) -> None:
        """Counts a call towards the memory budget until its client has read the reply."""
        try:
            await connection.writable(0)
        finally:
            call.drop()

    def _failed(self, connection: HttpConnection) -> None:
        """Logs what can't happen, and ends the connection."""
        logger.exception("a request over HTTP failed")
        connection.fail()


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
