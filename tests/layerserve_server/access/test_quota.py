"""Quotas of rows and runs."""

from __future__ import annotations

import pytest
from layerserve_server.access import quota
from layerserve_server.access.quota import Quota, Quotas
from layerserve_server.errors import QuotaError


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(quota.time, "monotonic", lambda: now[0])
    return now


def test_rows_of_a_period_and_when_to_come_back(clock):
    limit = Quota("ci", 60.0, 60.0)
    limit.take_rows(50)
    limit.take_rows(10)
    with pytest.raises(QuotaError, match="caller 'ci': its quota of 60 rows per minute is used up") as caught:
        limit.take_rows(1)
    assert caught.value.retry_after == pytest.approx(1.0)
    clock[0] += caught.value.retry_after
    limit.take_rows(1)
    with pytest.raises(QuotaError):
        limit.take_rows(1)
    # A long pause gives one period's rows, not more.
    clock[0] += 3600
    limit.take_rows(60)
    with pytest.raises(QuotaError):
        limit.take_rows(1)


def test_a_large_request_is_computed_and_paid_for_afterwards(clock):
    limit = Quota("ci", 10.0)
    limit.take_rows(35)
    with pytest.raises(QuotaError) as caught:
        limit.take_rows(1)
    assert caught.value.retry_after == pytest.approx(2.6)
    clock[0] += 2.6
    limit.take_rows(1)


def test_without_a_limit_of_rows_any_number_is_taken(clock):
    Quota("ci", None, max_runs=1).take_rows(10**9)


def test_runs_count_until_they_end():
    limit, open_runs = Quota("ci", None, max_runs=2), {"a", "b", "c"}

    def begin(run):
        return limit.run(lambda: run, lambda one: one not in open_runs)

    begin("a")
    begin("b")
    with pytest.raises(QuotaError, match="got 2 queued and running runs, expected fewer than 2"):
        begin("c")
    open_runs.discard("a")
    assert begin("c") == "c"


def test_a_run_that_could_not_begin_does_not_count():
    limit = Quota("ci", None, max_runs=1)

    def fail():
        # While it begins it counts.
        with pytest.raises(QuotaError):
            limit.run(lambda: "other", lambda run: False)
        raise KeyError("invalid")

    with pytest.raises(KeyError):
        limit.run(fail, lambda run: False)
    limit.run(lambda: "a", lambda run: False)


def test_a_run_that_is_resumed_counts_once():
    limit, run = Quota("ci", None, max_runs=2), object()
    for _ in range(2):
        limit.run(lambda: run, lambda one: False)
    limit.run(object, lambda one: False)


def test_tokens_of_one_name_share_a_quota(monkeypatch):
    monkeypatch.setattr(quota, "MAX_KEPT", 4)
    quotas = Quotas()
    assert quotas.get("a", None) is None
    shared = quotas.get("a", 5.0)
    assert quotas.get("a", 5.0) is shared
    assert quotas.get("a", 5.0, 60.0) is not shared
    for number in range(10):
        quotas.get(f"b{number}", 5.0)
    assert len(quotas._quotas) == 4
