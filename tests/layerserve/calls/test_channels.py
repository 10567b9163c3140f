"""What both channels do in each kind of call: what goes with it, anew for each attempt, and what ends with it."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import defaultdict

import numpy as np
import pytest
from blocking import Blocking
from layerserve import AsyncClient, Client, DeadlineExceeded, Overloaded
from layerserve.calls import async_channel, channel, retries
from layerserve.errors import PUSHBACK_KEY

ROWS = [[1.0, 2.0, 3.0]]
X = np.zeros((4, 3), np.float32)

CALLS = {
    "a call": lambda client, folder: client.models(),
    "a prepared call": lambda client, folder: client.prepare("double")(ROWS),
    "a stream of predictions": lambda client, folder: list(client.predict_many("double", [ROWS])),
    "a download": lambda client, folder: client.download("double", folder / "m.keras"),
    "an upload": lambda client, folder: client.upload("double", folder / "new.keras"),
    "a run": lambda client, folder: client.train("double", X, X).wait(),
    "a run that is watched": lambda client, folder: list(client.run(client.train("double", X, X).id)),
    "an evaluation": lambda client, folder: client.evaluate("double", X, X),
}


@pytest.fixture(params=["blocking", "asyncio"])
def make(request, server):
    """Make a client of the server, blocking or asyncio behind a blocking face."""
    loop, made = asyncio.new_event_loop(), []

    def client(**options):
        blocking = request.param == "blocking"
        one = Client(server.address, **options) if blocking else AsyncClient(server.address, **options)
        made.append(one if blocking else Blocking(one, loop))
        return made[-1]

    yield client
    for one in made:
        one.close()
    loop.close()


@pytest.fixture
def no_pauses(monkeypatch):
    """Repetitions come at once."""

    async def at_once(self, seconds):
        pass

    monkeypatch.setattr(channel.Channel, "pause", lambda self, seconds: None)
    monkeypatch.setattr(async_channel.AsyncChannel, "pause", at_once)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_each_call_has_a_token_of_its_own_and_the_trace(make, server, tmp_path, monkeypatch, call):
    (tmp_path / "new.keras").write_bytes(b"model")
    for module in (channel, async_channel):
        monkeypatch.setattr(module, "trace_metadata", lambda: (("traceparent", "00-1-1-01"),))
    numbers = itertools.count()
    call(make(token=lambda: f"t{next(numbers)}"), tmp_path)
    assert server.metadata
    assert {one.get("traceparent") for one in server.metadata} == {"00-1-1-01"}
    tokens = [one.get("authorization") for one in server.metadata]
    assert sorted(tokens) == [f"Bearer t{number}" for number in range(len(tokens))]
    assert next(numbers) == len(tokens)


def test_each_attempt_of_a_call_has_a_token_of_its_own(make, server, no_pauses):
    numbers = itertools.count()
    client = make(token=lambda: f"t{next(numbers)}")
    server.fail_next(Overloaded("queue is full", metadata={PUSHBACK_KEY: "1"}), "ListModels", times=2)
    client.models()
    assert [one["authorization"] for one in server.metadata] == ["Bearer t0", "Bearer t1", "Bearer t2"]


def test_calls_that_succeed_make_up_for_refused_ones(make, server, no_pauses, monkeypatch):
    monkeypatch.setattr(retries, "THROTTLE_TOKENS", 4)
    monkeypatch.setattr(retries, "THROTTLE_RATIO", 1.0)
    client = make()
    busy = Overloaded("queue is full", metadata={PUSHBACK_KEY: "1"})
    server.fail_next(busy, "ListModels", times=9)
    for _ in range(4):
        with pytest.raises(Overloaded):
            client.models()
    before = len(server.calls)
    with pytest.raises(Overloaded):
        client.models()
    assert len(server.calls) == before + 1, "no longer repeated"
    server._failures.clear()
    for _ in range(4):
        client.models()
    server.fail_next(busy, "ListModels")
    client.models()


@pytest.fixture
def ended(server):
    """Calls that have ended on the server, by method; a download waits there until its call has ended."""
    found, answering = defaultdict(threading.Event), server.answering

    def noted(method, request, context):
        context.add_callback(found[method].set)
        if method == "DownloadModel":
            found[method].wait(20)
        return answering(method, request, context)

    server.answering = noted
    return found


def test_a_stream_that_ends_at_its_timeout_is_cancelled_on_the_server(make, ended):
    """Otherwise the server goes on to compute, and to hold what it sends."""
    client, began = make(), time.monotonic()
    with pytest.raises(DeadlineExceeded):
        client.download("double", "/nowhere/file", timeout=0.1)
    client.models()  # the event loop sends what is left
    assert ended["DownloadModel"].wait(10)
    assert time.monotonic() - began < 10


def test_a_stream_that_is_left_early_is_cancelled_on_the_server(make, ended):
    client = make()
    results = client.predict_many("double", itertools.repeat(ROWS))
    for _ in results:
        break
    if isinstance(client, Client):
        results.close()
    else:
        client._loop.run_until_complete(results._wrapped.aclose())
    client.models()
    assert ended["PredictStream"].wait(10)
