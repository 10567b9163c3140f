"""Waiting for a server: how long one waits."""

from __future__ import annotations

import threading
import time

import pytest
from clocks import replace_time
from layerserve import (
    Client,
    DeadlineExceeded,
    InvalidArgument,
    LabelNotFound,
    ModelNotFound,
    ModelNotReady,
    Unavailable,
    VersionNotFound,
)
from layerserve.calls.flow import Call, Pause
from layerserve.calls.health_check import CHECK, HealthCheckResponse
from layerserve.models import health
from layerserve.models.health import wait_until_ready


class Clock:
    """Time passes only by pauses."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        replace_time(monkeypatch, health, monotonic=lambda: self.now)

    def waits(self, flow, *answers):
        """Runs a flow with these answers, the last one again and again; gives how often it asked."""
        asked, step = 0, next(flow)
        while True:
            try:
                if isinstance(step, Pause):
                    self.now += step.seconds
                    step = flow.send(None)
                    continue
                assert isinstance(step, Call)
                assert step.method is CHECK
                answer = answers[min(asked, len(answers) - 1)]
                asked += 1
                step = flow.throw(answer) if isinstance(answer, Exception) else flow.send(answer)
            except StopIteration:
                return asked


YES, NO = HealthCheckResponse(True), HealthCheckResponse(False)


def test_it_asks_until_the_server_serves(monkeypatch):
    clock = Clock(monkeypatch)
    assert clock.waits(wait_until_ready("h:1", 60.0), YES) == 1
    assert clock.now == 100.0
    gone = Unavailable("connection refused")
    assert clock.waits(wait_until_ready("h:1", 60.0), gone, DeadlineExceeded("late"), NO, NO, YES) == 5
    assert clock.now == pytest.approx(100.0 + 4 * health.POLL_SECONDS)


@pytest.mark.parametrize(
    ("answers", "error", "text"),
    [
        ([NO], Unavailable, "the server at h:1 is still loading its models, or is stopping"),
        ([Unavailable("connection refused")], Unavailable, "connection refused"),
        ([DeadlineExceeded("late")], DeadlineExceeded, "late"),
        # What the server said last tells more than that it didn't answer once.
        ([NO, DeadlineExceeded("late")], Unavailable, "still loading"),
        ([NO, Unavailable("connection refused")], Unavailable, "connection refused"),
    ],
)
def test_after_a_time_it_says_what_was_known_last(monkeypatch, answers, error, text):
    clock = Clock(monkeypatch)
    with pytest.raises(error, match=text):
        clock.waits(wait_until_ready("h:1", 3.0), *answers)
    assert clock.now == pytest.approx(103.0, abs=health.POLL_SECONDS)


REFUSED = Unavailable("server h:1: can't connect to h:1: Connection refused")


def test_the_end_of_a_server_that_has_answered_ends_the_wait(monkeypatch):
    clock = Clock(monkeypatch)
    with pytest.raises(Unavailable, match=r"^the server at localhost:1 has ended before it was ready$"):
        clock.waits(wait_until_ready("localhost:1", 60.0), REFUSED, NO, REFUSED)
    assert clock.now == pytest.approx(100.0 + 2 * health.POLL_SECONDS)


@pytest.mark.parametrize(
    ("address", "answers"),
    [
        # It may be about to start.
        ("localhost:1", [REFUSED, REFUSED, YES]),
        # Others may be behind the name.
        ("models:1", [NO, REFUSED, YES]),
        # A connection that breaks is made again.
        ("localhost:1", [NO, Unavailable("server localhost:1: Socket closed"), YES]),
    ],
)
def test_a_server_that_may_come_is_waited_for(monkeypatch, address, answers):
    assert Clock(monkeypatch).waits(wait_until_ready(address, 60.0), *answers) == 3


def test_a_wait_for_a_model_ends_with_the_server(server):
    server.add_model("slow", lambda a: {}, [], [], state="loading")
    began = time.monotonic()
    with Client(server.address) as client:
        timer = threading.Timer(0.1, server.stop)
        timer.start()
        with pytest.raises(Unavailable, match="has ended before it was ready"):
            client.wait_until_ready(60, model="slow")
        timer.join()
    assert time.monotonic() - began < 20


def test_without_a_time_it_asks_once(monkeypatch):
    clock = Clock(monkeypatch)
    with pytest.raises(Unavailable, match="still loading"):
        clock.waits(wait_until_ready("h:1", 0.0), NO, YES)
    assert clock.now == 100.0


def test_other_errors_end_the_wait(monkeypatch):
    with pytest.raises(InvalidArgument):
        Clock(monkeypatch).waits(wait_until_ready("h:1", 3.0), InvalidArgument("no"), YES)


def test_a_client_waits_for_a_model_that_comes_later(client, server):
    def upload():
        server.add_model("late", lambda a: {}, [], [], state="loading")
        time.sleep(0.05)
        server.models[-1].state = "ready"

    timer = threading.Timer(0.05, upload)
    timer.start()
    client.wait_until_ready(20, model="late")
    timer.join()
    assert client.model("late").state == "ready"


def test_a_version_that_is_loaded_on_its_first_request_is_ready(client, server):
    server.add_model("lazy", lambda a: {}, [], [], state="available", version=3)
    client.wait_until_ready(1, model="lazy", version=3)
    with pytest.raises(InvalidArgument, match="got version 3 and label 'a'"):
        client.wait_until_ready(1, model="lazy", version=3, label="a")


@pytest.mark.parametrize(
    ("reference", "error", "text"),
    [
        ({"model": "nope"}, ModelNotFound, "unknown model 'nope'"),
        ({"model": "double", "version": 9}, VersionNotFound, "no version 9"),
        ({"model": "double", "label": "canary"}, LabelNotFound, "no label 'canary'"),
        ({"model": "slow"}, Unavailable, "model 'slow' version 1 is loading"),
    ],
)
def test_a_model_that_does_not_come_is_named(client, server, reference, error, text):
    server.add_model("slow", lambda a: {}, [], [], state="loading")

    def wait():
        try:
            client.wait_until_ready(0.1, **reference)
        except DeadlineExceeded:  # A busy machine didn't answer in time.
            client.wait_until_ready(10, **reference)

    with pytest.raises(error, match=text):
        wait()


def test_a_model_that_failed_ends_the_wait_at_once(client):
    began = time.monotonic()
    with pytest.raises(ModelNotReady, match="file is truncated"):
        client.wait_until_ready(60, model="broken")
    assert time.monotonic() - began < 20
