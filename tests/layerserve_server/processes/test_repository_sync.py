"""Workers follow changes: each is told, and what one serves otherwise is named with the reason."""

import io
import json
import threading

import pytest
from layerserve_server.processes.repository_sync import DRAIN, Orders, RepositorySync, lagging

STATE = {"default": 2, "labels": {"stable": 1}, "loaded": True, "reasons": {}}


def test_an_order_is_answered_by_the_workers_that_are_waited_for():
    sync, sent = RepositorySync(), []

    def send(order):
        sent.append(json.loads(order))
        number = sent[-1]["order"]
        for worker in (2, 0, 1):  # one of them isn't waited for
            sync.answered(worker, json.dumps({"order": number, "serving": {"default": worker}}))

    for number, versions in enumerate((None, [3, 4]), 1):
        answers = sync.ask("m", [0, 1], send, versions, seconds=30)
        assert sent[-1] == {"order": number, "scan": "m", "versions": versions}
        assert {worker: answers[worker] for worker in (0, 1)} == {0: {"default": 0}, 1: {"default": 1}}


def test_workers_that_are_late_or_end_hold_nothing_up():
    sync = RepositorySync()
    assert sync.ask("m", [0], lambda order: None, seconds=0.01) == {}
    sync.answered(0, '{"order": 1, "serving": {}}')  # too late
    ending = threading.Timer(0.05, sync.ended, (1,))
    ending.start()
    assert sync.ask("m", [1], lambda order: None, seconds=30) == {1: None}


@pytest.mark.parametrize("line", ["", "warning: something", "[1]", "{}", '{"order": 1}', "null"])
def test_lines_that_are_no_answers_are_logged(line, caplog):
    RepositorySync().answered(0, line)
    assert "a line that is no answer" in caplog.text


def test_what_lags_behind_is_told_with_the_reason():
    late = {**STATE, "default": 1, "reasons": {"2": "out of memory"}}
    found = lagging(STATE, [0, 1, 2, 3], {0: STATE, 1: late, 3: None})
    assert found == [
        "worker process 2: default is 1, expected 2 (version 2: out of memory)",
        "worker process 3: it hasn't followed within 30 s, but still may",
        "worker process 4: it has ended, and is being started again",
    ]
    assert lagging(STATE, [0], {0: {**STATE, "reasons": {"1": "old"}}}) == []
    assert lagging({**STATE, "canary": 0.5}, [0], {0: STATE}) == ["worker process 1: canary is None, expected 0.5"]


def test_a_worker_carries_out_its_orders_in_turn_until_the_end():
    out, scanned, gate = io.StringIO(), [], threading.Event()

    def scan(model, catalogue):
        assert gate.wait(30)
        scanned.append((model, catalogue))
        if model == "bad":
            raise OSError("gone")

    drained = []
    orders = Orders(scan, lambda model: {"model": model}, lambda: drained.append(True), out)
    lines = [
        json.dumps({"order": number, "scan": model, "versions": versions})
        for number, (model, versions) in enumerate((("a", None), ("bad", [1]), ("b", [])))
    ]
    # The line that ends it isn't held up by a scan.
    assert orders.take([*lines, DRAIN, "2.5\n"]) == 2.5
    assert drained == [True]
    gate.set()
    orders._pool.shutdown(wait=True)
    assert scanned == [("a", None), ("bad", {"bad": [1]}), ("b", {"b": []})]
    answers = [json.loads(line) for line in out.getvalue().splitlines()]
    assert answers == [{"order": n, "serving": {"model": model}} for n, model in enumerate(("a", "bad", "b"))]
    assert Orders(scan, dict, list, out).take([]) == 0.0
