"""Servers of a small service, on every transport: what tests of the transports talk to."""

import asyncio
import threading
import time
from importlib.util import find_spec

import grpc
import pytest
from layerserve_server.access.gate import Gate
from layerserve_server.access.rights import CORE
from layerserve_server.errors import BusyError, InvalidRequestError
from layerserve_server.transport.call import Routes
from layerserve_server.transport.grpcio import GrpcioServer
from layerserve_server.transport.native import NativeServer

needs_native = pytest.mark.skipif(find_spec("pygrpc_native") is None, reason="pygrpc-native isn't installed")
SERVERS = [GrpcioServer, pytest.param(NativeServer, marks=needs_native)]

ECHO = "/test.v1.Echo/"


def server_of(kind, routes, limits, observer=None, **options):
    """A server on the loopback, of whose methods all callers may call each."""
    rights = {**CORE, **dict.fromkeys([*routes.unary, *routes.streams], "open")}
    given = {"gate": Gate(rights=rights), "host": "127.0.0.1", "port": 0, **options}
    return kind(routes, observer or Observer(), limits, **given)


class Observer:
    def __init__(self):
        self.began = 0
        self.ended = []
        self.changed = threading.Condition()

    def calls_began(self, method, count):
        self.began += count

    def before_collect(self, report):
        pass

    def streamed(self, requests):
        pass

    def calls_ended(self, calls):
        with self.changed:
            self.ended += [(call.method.removeprefix(ECHO), call.model, call.status) for call in calls]
            self.changed.notify_all()

    def wait_for(self, entry):
        with self.changed:
            assert self.changed.wait_for(lambda: entry in self.ended, 30), self.ended


class Echo:
    def __init__(self):
        self.gone = threading.Event()
        self.called = threading.Event()
        self.release = threading.Event()
        self.deadline = self.client = None
        self.waiting = []

    def routes(self):
        names = (
            "echo",
            "later",
            "invalid",
            "busy",
            "defect",
            "hang",
            "together",
            "slow",
            "slow_defect",
            "block",
            "wait",
        )
        return Routes(
            unary={ECHO + name: getattr(self, name) for name in names},
            prompt={ECHO + name for name in names},
            server_streams={ECHO + name: getattr(self, name) for name in ("count", "endless", "flood")},
            both_streams={ECHO + "upper": self.upper},
        )

    def echo(self, call):
        self.deadline, self.client = call.deadline, call.client()
        call.set_metric_labels("m", 1)
        call.reply(lambda: call.request)

    def later(self, call):
        threading.Timer(0.01, call.reply, [lambda: call.request]).start()

    def invalid(self, call):
        raise InvalidRequestError("no\ngood \ud800")

    def busy(self, call):
        call.fail(BusyError("full", 0.5))

    def defect(self, call):
        raise KeyError("secret")

    def hang(self, call):
        call.on_gone(self.gone.set)
        self.called.set()

    def together(self, call):
        """Waits for company: answers all that came, once their handlers have run."""
        self.waiting.append(call)
        call.after_batch(self.answer_all)

    def answer_all(self):
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            call.reply(lambda: b"done")

    def slow(self, call):
        call.in_pool(lambda: call.reply(lambda: threading.current_thread().name.encode()))

    def slow_defect(self, call):
        call.in_pool(lambda: 1 / 0)

    def block(self, call):
        """Keeps the thread that takes the calls."""
        self.called.set()
        self.release.wait(30)
        call.reply(lambda: call.request)

    def wait(self, call):
        """Answers when it is released."""

        def answer():
            self.called.set()
            self.release.wait(30)
            call.reply(lambda: call.request)

        call.in_pool(answer)

    async def count(self, stream):
        for number in range(int(await stream.first())):
            yield str(number).encode()

    async def endless(self, stream):
        closed = asyncio.Event()
        stream.on_closed(closed.set)
        yield b"open"
        await closed.wait()
        self.gone.set()

    async def flood(self, stream):
        stream.on_closed(self.gone.set)
        try:
            while True:
                yield bytes(100_000)
        finally:
            self.gone.set()

    async def upper(self, stream):
        async for message in stream.requests():
            yield message.upper()

    @staticmethod
    def stopping(channel):
        """Waits until the server refuses calls because it stops."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                channel.unary_unary(ECHO + "echo")(b"", timeout=30)
            except grpc.RpcError as error:
                return error.code() is grpc.StatusCode.UNAVAILABLE
        return False
