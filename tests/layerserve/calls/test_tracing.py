"""Calls have the program's current trace, if it has one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest
from echo_servers import server_of
from layerserve import AsyncClient, Client
from layerserve.calls.tracing import trace_metadata

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk isn't installed")
from layerserve_server.transport.call import Call, Routes
from layerserve_server.transport.grpcio import GrpcioServer
from opentelemetry import baggage, context
from opentelemetry.sdk.trace import TracerProvider
from some_limits import some_limits


class Observer:
    """Counts nothing."""

    def calls_began(self, method: str, count: int) -> None: ...

    def calls_ended(self, calls: object) -> None: ...

    def before_collect(self, report: object) -> None: ...


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that keeps the metadata of calls, and its address."""
    seen: list[dict[str, str]] = []

    def list_models(call: Call) -> None:
        seen.append({key: value for key, value in call.metadata if isinstance(value, str)})
        call.answer(b"")

    routes = Routes(unary={"/layerserve.v1.ModelService/ListModels": list_models})
    limits = some_limits(max_message_bytes=1 << 20, rpc_threads=1, max_streams=4, max_calls=8)
    made = server_of(GrpcioServer, routes, limits)
    made.start()
    yield f"127.0.0.1:{made.port}", seen
    made.stop(0)


def test_the_current_span_goes_with_each_call(server: tuple[str, list[dict[str, str]]]) -> None:
    address, seen = server
    tracer = TracerProvider().get_tracer("test")

    async def ask() -> None:
        async with AsyncClient(address) as client:
            await client.models()

    with Client(address) as client:
        client.models()
        token = context.attach(baggage.set_baggage("user", "7"))
        try:
            with tracer.start_as_current_span("program") as span:
                client.models()
                asyncio.run(ask())
        finally:
            context.detach(token)
        client.models()
    own = span.get_span_context()
    expected = f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"
    assert [one.get("traceparent") for one in seen] == [None, expected, expected, None]
    assert [one.get("baggage") for one in seen] == [None, "user=7", "user=7", None]
    assert trace_metadata() == ()


def test_a_program_without_traces_imports_nothing_for_them() -> None:
    program = """
import sys
import layerserve
from layerserve.calls.tracing import trace_metadata
assert trace_metadata() == ()
assert not any(name.startswith("opentelemetry") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
