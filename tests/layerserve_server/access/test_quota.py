"""Quotas of rows and runs."""

from __future__ import annotations

import multiprocessing
import random
import threading
from contextlib import suppress

import pytest
from clocks import replace_time
from layerserve_server.access import balances, quota
from layerserve_server.access.balances import Balances, digest_of
from layerserve_server.access.quota import Quota, Quotas
from layerserve_server.errors import QuotaError


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    replace_time(monkeypatch, quota, monotonic=lambda: now[0])
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
    limit = Quota("ci", None, max_runs=1)
    assert [limit.take_rows(10**9) for _ in range(2)] == [None, None]


def test_runs_count_until_they_end():
    limit, open_runs = Quota("ci", None, max_runs=2), set()

    def begin(run):
        return limit.run(lambda: open_runs.add(run), lambda: len(open_runs))

    begin("a")
    begin("b")
    with pytest.raises(QuotaError, match="got 2 queued and running runs, expected fewer than 2"):
        begin("c")
    open_runs.discard("a")
    begin("c")
    assert open_runs == {"b", "c"}


def test_a_run_that_could_not_begin_does_not_count():
    limit = Quota("ci", None, max_runs=1)

    def fail():
        # While it begins it counts.
        with pytest.raises(QuotaError):
            limit.run(lambda: "other", lambda: 0)
        raise KeyError("invalid")

    with pytest.raises(KeyError):
        limit.run(fail, lambda: 0)
    assert limit.run(lambda: "a", lambda: 0) == "a"


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


@pytest.fixture
def shared(tmp_path):
    Balances.create(tmp_path / "balances")
    return tmp_path / "balances"


def test_processes_share_the_rows_of_a_name(shared):
    first, second = (Quotas(Balances(shared)) for _ in range(2))
    first.get("ci", 10.0, 3600.0).take_rows(8)
    second.get("ci", 10.0, 3600.0).take_rows(8)
    for quotas in (first, second):
        with pytest.raises(QuotaError, match="10 rows per 3600 seconds") as caught:
            quotas.get("ci", 10.0, 3600.0).take_rows(1)
        assert caught.value.retry_after == pytest.approx(7 * 360, abs=30)
        quotas.get("other", 10.0, 3600.0).take_rows(1)
        quotas.get("ci", 10.0, 3600.0, space="issuer").take_rows(1)


def test_a_process_takes_rows_in_advance_and_no_more_than_there_are(shared):
    limits = [Quota("ci", 640.0, 1e9, balances=Balances(shared)) for _ in range(2)]
    taken = 0
    for number in range(2000):
        with suppress(QuotaError):
            limits[number % 2].take_rows(1)
            taken += 1
    # The last part is taken as long as anything is left.
    assert 640 <= taken <= 650


def test_balances_of_processes_agree_with_that_of_one(shared, monkeypatch):
    now = [100.0]
    for module in (quota, balances):
        replace_time(monkeypatch, module, monotonic=lambda: now[0])
    alone, together = Quota("ci", 5.0), Balances(shared)
    draw = random.Random(3)
    for _ in range(500):
        now[0] += draw.choice([0.0, 0.01, 0.3, 2.0])
        rows = draw.randrange(1, 9)
        assert alone._take(rows, 5.0, 5.0) == together.take(b"x" * 16, rows, 5.0, 5.0)


def test_more_names_than_slots_take_those_that_were_used_least_recently(shared, monkeypatch):
    monkeypatch.setattr(balances, "SLOTS", 16)
    kept = Balances(shared)
    assert [kept.take(digest_of(number), 2, 1.0, 1e-9) for number in range(200)] == [0.0] * 200
    last = digest_of(199)
    assert kept.take(last, 1, 1.0, 1e-9) > 1e6


def use(path, count):
    common = Balances(path)
    for _ in range(count):
        common.take(b"x" * 16, 1, 1e6, 1e-3)


def test_no_row_is_lost_between_processes(shared):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=use, args=(shared, 3000)) for _ in range(2)]
    for process in processes:
        process.start()
    threads = [threading.Thread(target=use, args=(shared, 1000)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for one in (*threads, *processes):
        one.join()
    found = Balances(shared)
    _, balance, _ = found._find(b"x" * 16, 1e6, 0.0)
    # Some come back each second, far less than one in all.
    assert balance == pytest.approx(1e6 - 8000, abs=1)


@pytest.mark.parametrize("same", [4, 8, 15])
def test_quotas_whose_digests_begin_in_the_same_way_have_balances_of_their_own(tmp_path, same):
    """They compete for the same slots, of which there are few."""
    Balances.create(tmp_path / "balances")
    shared = Balances(tmp_path / "balances")
    beginning = digest_of("a")[:same]
    digests = [beginning + bytes([number]) * (16 - same) for number in range(balances.PROBED)]
    for digest in digests:
        assert shared.take(digest, 100, 10, 0.001) == 0
    for digest in digests:
        assert shared.take(digest, 1, 10, 0.001) > 0
