"""Calls that are repeated: which, when, how often, and never after their timeout."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from blocking import both_clients
from clocks import replace_time
from layerserve import Client, DeadlineExceeded, LayerserveError, Overloaded, Unavailable
from layerserve.calls import channel, retries
from layerserve.calls.service_config import THROTTLE_TOKENS
from layerserve.errors import OWN_PUSHBACK_KEY, PUSHBACK_KEY

#: Both transports' names of the time after which to repeat a call.
HINTS = [PUSHBACK_KEY, OWN_PUSHBACK_KEY]
ROW = [[1, 2, 3]]


def busy(milliseconds, key=PUSHBACK_KEY):
    return Overloaded("queue is full", metadata={key: str(milliseconds)})


def gone():
    return Unavailable("draining", metadata={PUSHBACK_KEY: "1"})


def attempts(server, method="Predict"):
    return sum(name == method for name, _ in server.calls)


@pytest.fixture
def pauses(monkeypatch):
    """The pauses before repetitions, in seconds. None of them is made."""
    made = []
    replace_time(monkeypatch, channel, sleep=made.append)
    return made


@both_clients
@pytest.mark.parametrize("key", HINTS)
def test_an_overloaded_server_is_asked_again_when_it_says(client, server, key):
    server.fail_next(busy(30, key), times=2)
    began = time.monotonic()
    assert client.predict("double", ROW).shape == (1, 3)
    assert attempts(server) == 3
    assert time.monotonic() - began >= 0.06


@pytest.mark.parametrize("key", HINTS)
def test_the_pause_is_the_servers_and_a_little_more(server, pauses, key):
    server.fail_next(busy(700, key), times=3)
    with Client(server.address) as client:
        client.predict("double", ROW)
    assert all(0.7 <= pause <= 0.7 * (1 + retries.JITTER) for pause in pauses)
    assert len(set(pauses)) == 3


@both_clients
@pytest.mark.parametrize(
    "metadata",
    [
        {},
        *({PUSHBACK_KEY: text} for text in ("-1", "soon", "1.5", "nan", "9" * 400, "9" * 5000)),
        {OWN_PUSHBACK_KEY: "-1"},
    ],
)
def test_a_request_that_will_never_fit_is_not_repeated(client, server, metadata):
    server.fail_next(Overloaded("request is too large", metadata=metadata))
    with pytest.raises(Overloaded):
        client.predict("double", ROW)
    assert attempts(server) == 1


def test_attempts_are_bounded(server, pauses):
    server.fail_next(busy(1), times=9)
    with Client(server.address) as client, pytest.raises(Overloaded, match="queue is full"):
        client.predict("double", ROW)
    assert attempts(server) == 5


@pytest.mark.parametrize(("number", "expected"), [(0, 1), (1, 2), (3, 4)])
@pytest.mark.parametrize("error", [gone, lambda: busy(1)], ids=["unavailable", "overloaded"])
def test_the_number_is_the_callers(server, number, expected, error):
    server.fail_next(error(), times=9)
    with Client(server.address, retries=number) as client, pytest.raises(LayerserveError):
        client.predict("double", ROW)
    assert attempts(server) == expected


@both_clients
def test_no_call_waits_past_its_timeout(client, server, pauses):
    """The answer comes at once: waiting for longer than the timeout wouldn't give another."""
    server.fail_next(busy(30_000))
    with pytest.raises(Overloaded) as caught:
        client.predict("double", ROW, timeout=5)
    assert caught.value.retry_after == 30
    assert not pauses
    server.fail_next(Unavailable("draining", metadata={PUSHBACK_KEY: "60000"}))
    began = time.monotonic()
    with pytest.raises((Unavailable, DeadlineExceeded)):
        client.predict("double", ROW, timeout=0.3)
    assert time.monotonic() - began < 30


def test_without_a_timeout_a_pause_is_bounded_too(server, pauses):
    server.fail_next(busy(3_600_000))
    with Client(server.address, timeout=math.inf) as client, pytest.raises(Overloaded) as caught:
        client.predict("double", ROW)
    assert (caught.value.retry_after, pauses) == (3600, [])


@both_clients
def test_prepared_predictions_are_repeated_too(client, server):
    call = client.prepare("double")
    server.fail_next(busy(1))
    assert call(ROW).tolist() == [[2, 4, 6]]
    assert attempts(server) == 2


@both_clients
@pytest.mark.parametrize("error", [gone, lambda: busy(1)], ids=["unavailable", "overloaded"])
def test_large_requests_are_repeated_too(client, server, error):
    """gRPC repeats only requests up to 256 KiB unless it is told otherwise."""
    rows = np.ones((500_000, 3), np.float32)
    server.fail_next(error())
    assert client.predict("double", rows).shape == rows.shape
    assert attempts(server) == 2


@both_clients
@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("CancelRun", lambda client, run: run.cancel()),
        ("ResumeRun", lambda client, run: run.resume()),
        ("DeleteRun", lambda client, run: run.delete()),
        ("Train", lambda client, run: client.train("double", np.zeros((4, 3)), np.zeros((4, 3)))),
        ("Evaluate", lambda client, run: client.evaluate("double", np.zeros((4, 3)), np.zeros((4, 3)))),
    ],
)
@pytest.mark.parametrize("error", [gone, lambda: busy(1)], ids=["unavailable", "overloaded"])
def test_what_changes_something_is_sent_once(client, server, method, call, error):
    run = client.train("double", np.zeros((4, 3)), np.zeros((4, 3)))
    run.wait()
    before = attempts(server, method)
    server.fail_next(error(), method, times=2)
    with pytest.raises((Overloaded, Unavailable)):
        call(client, run)
    assert attempts(server, method) == before + 1


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("ListModels", lambda client, run: client.models()),
        ("GetModel", lambda client, run: client.model("double")),
        ("GetModelStatistics", lambda client, run: client.statistics()),
        ("GetNodeShapes", lambda client, run: client.node_shapes("double")),
        ("GetServer", lambda client, run: client.server()),
        ("GetRun", lambda client, run: run.info()),
        ("ListRuns", lambda client, run: client.runs()),
        ("ListRunFiles", lambda client, run: run.files()),
    ],
)
def test_what_changes_nothing_is_repeated(client, server, method, call):
    run = client.train("double", np.zeros((4, 3)), np.zeros((4, 3)))
    run.wait()
    before = attempts(server, method)
    server.fail_next(gone(), method)
    server.fail_next(busy(1), method)
    call(client, run)
    assert attempts(server, method) == before + 3


def test_a_server_that_refuses_everything_is_asked_ever_less(server, pauses):
    """Retry throttling: after many refusals each call is sent once, until calls succeed again."""
    with Client(server.address) as client:
        server.fail_next(busy(1), times=2 * THROTTLE_TOKENS)
        sent = []
        for _ in range(60):
            before = attempts(server)
            with pytest.raises(Overloaded):
                client.predict("double", ROW)
            sent.append(attempts(server) - before)
        assert sent[:10] == [5] * 10
        assert sent[-30:] == [1] * 30
        server._failures.clear()
        for _ in range(2 * 10 * 30):
            client.predict("double", ROW)
        server.fail_next(busy(1))
        client.predict("double", ROW)
