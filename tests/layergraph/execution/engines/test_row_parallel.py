"""Rows of a batch split between threads: each row is computed once, in its place, whatever the threads do."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from layergraph.execution.engines import row_parallel as module
from layergraph.execution.engines.row_parallel import row_parallel

ROWS = np.arange(14.0).reshape(7, 2)


def doubled(arrays: Sequence[Any]) -> list[Any]:
    """Two outputs, and whether no number is negative."""
    return [arrays[0] * 2, arrays[0].sum(1), np.asarray((arrays[0] >= 0).all())]


@pytest.mark.parametrize(
    ("threads", "single_rows", "sizes"),
    [(3, False, [2, 2, 3]), (9, False, [1] * 7), (2, True, [1] * 7), (1, True, [1] * 7)],
)
def test_each_row_is_computed_once_and_in_its_place(threads: int, single_rows: bool, sizes: list[int]) -> None:
    called: list[int] = []

    def engine(arrays: Sequence[Any]) -> list[Any]:
        called.append(len(arrays[0]))
        return doubled(arrays)

    twice, sums, holds = row_parallel(engine, threads, 1, single_rows=single_rows)([ROWS])
    assert sorted(called) == sizes
    np.testing.assert_array_equal(twice, ROWS * 2)
    np.testing.assert_array_equal(sums, ROWS.sum(1))
    assert holds


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("single_rows", [False, True])
def test_what_cannot_be_split_is_one_call(rows: int, single_rows: bool) -> None:
    called: list[int] = []

    def engine(arrays: Sequence[Any]) -> list[Any]:
        called.append(len(arrays[0]))
        return doubled(arrays)

    assert len(row_parallel(engine, 3, 1, single_rows=single_rows)([ROWS[:rows]])[0]) == rows
    assert called == [rows]


@pytest.mark.parametrize("wrong", [0, 6])
def test_an_assertion_must_hold_for_all_parts(wrong: int) -> None:
    rows = ROWS.copy()
    rows[wrong] = -1
    assert not row_parallel(doubled, 3, 1, single_rows=False)([rows])[2]


def test_parts_are_computed_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "cpu_count", lambda: 4)
    module._pool.cache_clear()
    together = threading.Barrier(3, timeout=10)

    def engine(arrays: Sequence[Any]) -> list[Any]:
        together.wait()
        return doubled(arrays)

    try:
        np.testing.assert_array_equal(row_parallel(engine, 3, 1, single_rows=False)([ROWS])[0], ROWS * 2)
    finally:
        module._pool.cache_clear()


def test_a_slow_thread_takes_fewer_rows() -> None:
    """One whose core is taken: the other computes the rest meanwhile."""
    others, slow = threading.Event(), threading.Lock()
    done: list[float] = []

    def engine(arrays: Sequence[Any]) -> list[Any]:
        if slow.acquire(blocking=False):
            assert others.wait(10)
        else:
            done.append(arrays[0][0, 0])
            if len(done) == len(ROWS) - 1:
                others.set()
        return doubled(arrays)

    np.testing.assert_array_equal(row_parallel(engine, 2, 1, single_rows=True)([ROWS])[0], ROWS * 2)


def test_threads_that_are_busy_are_not_waited_for() -> None:
    free = threading.Event()
    busy = [module._pool().submit(free.wait, 30) for _ in range(64)]
    try:
        np.testing.assert_array_equal(row_parallel(doubled, 2, 1, single_rows=True)([ROWS])[0], ROWS * 2)
    finally:
        free.set()
        for one in busy:
            one.result()


@pytest.mark.parametrize("wrong", range(4))
def test_an_error_of_any_part_is_raised_once_no_part_runs(wrong: int) -> None:
    running: list[int] = []

    def engine(arrays: Sequence[Any]) -> list[Any]:
        running.append(1)
        try:
            if arrays[0][0, 0] == ROWS[wrong, 0]:
                raise FloatingPointError("row")
            return doubled(arrays)
        finally:
            running.pop()

    with pytest.raises(FloatingPointError, match="row"):
        row_parallel(engine, 2, 1, single_rows=True)([ROWS[:4]])
    assert not running


def test_an_error_of_another_thread_is_raised() -> None:
    here, together = threading.current_thread(), threading.Barrier(2, timeout=10)

    def engine(arrays: Sequence[Any]) -> list[Any]:
        together.wait()
        if threading.current_thread() is not here:
            raise FloatingPointError("row")
        return doubled(arrays)

    with pytest.raises(FloatingPointError, match="row"):
        row_parallel(engine, 2, 1, single_rows=True)([ROWS[:2]])
