"""Tuning keeps to its time by the wall clock, whatever takes long. The clock only moves by what is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import layergraph
import numpy as np
import pytest
import torch
from layergraph.execution.passes.merge_shared_calls import joins
from layergraph.execution.tuning.timing import lower_quartiles

SECONDS = 10.0


class Clock:
    """Replaces the module `time`."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    stand_in = Clock()
    for module in ("tuner", "time_budget", "timing"):
        monkeypatch.setattr(f"layergraph.execution.tuning.{module}.time", stand_in)
    return stand_in


@pytest.fixture
def plan() -> Any:
    entry = layergraph.Input((4,))
    return layergraph.Model(entry, layergraph.layers.Dense(3)(entry)).plan()


def slow_torch(plan: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch, row: float) -> None:
    """Makes eager torch take this many seconds per row."""
    fast = plan.run_eagerly

    def run_eagerly(arrays: Any) -> Any:
        clock.now += row * len(arrays[0])
        return fast(arrays)

    monkeypatch.setattr(plan, "run_eagerly", run_eagerly)


def engines(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, count: int, *, building: float, row: float
) -> tuple[tuple[str, ...], list[str]]:
    """Engines that take some seconds to build and per row, and the names of those that were built."""
    built: list[str] = []

    def make(name: str) -> Any:
        def engine(source: Any) -> Any:
            built.append(name)
            clock.now += building

            def run(arrays: Any) -> Any:
                clock.now += row * len(arrays[0])
                return [output.numpy() for output in source.program([torch.from_numpy(array) for array in arrays])]

            return run

        return engine

    names = tuple(f"engine_{i}" for i in range(count))
    monkeypatch.setattr("layergraph.execution.tuning.tuner.ENGINES", {name: make(name) for name in names})
    return names, built


@pytest.mark.parametrize(
    ("building", "row", "eager_row"),
    [(0.5, 0.001, 0.001), (1.5, 0.02, 0.001), (1.5, 0.001, 0.1), (2.9, 0.1, 0.02)],
)
def test_it_ends_in_time_and_says_what_it_left_out(
    plan: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch, building: float, row: float, eager_row: float
) -> None:
    slow_torch(plan, clock, monkeypatch, eager_row)
    names, built = engines(clock, monkeypatch, 20, building=building, row=row)
    found = plan.tune(engines=names, seconds=SECONDS)
    assert clock.now <= SECONDS * 1.05
    assert built
    left_out = names[len(built) :]
    assert left_out
    assert all("no time left" in found.dropped[name] for name in left_out)


def test_a_model_that_takes_longer_than_the_time_stays_on_torch(
    plan: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_torch(plan, clock, monkeypatch, 1.0)
    names, built = engines(clock, monkeypatch, 2, building=0.1, row=0.1)
    found = plan.tune(engines=names, seconds=SECONDS)
    assert clock.now <= SECONDS
    assert not built
    assert not found.choices
    assert "no time left: " in found.dropped["engine_0"]


def test_an_engine_that_is_pinned_is_built_whatever_its_time(
    plan: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_torch(plan, clock, monkeypatch, 1.0)
    names, _ = engines(clock, monkeypatch, 2, building=60.0, row=1.0)
    assert plan.tune(engines=names, seconds=SECONDS, pin=True).choices[0].engine == "engine_0"


def test_engines_are_timed_for_rows_that_take_eager_torch_too_long(
    plan: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is slower for few rows may be faster for many."""
    slow_torch(plan, clock, monkeypatch, 0.05)

    def engine(call: float, row: float) -> Any:
        def make(source: Any) -> Any:
            def run(arrays: Any) -> Any:
                clock.now += call + len(arrays[0]) * row
                return [output.numpy() for output in source.program([torch.from_numpy(array) for array in arrays])]

            return run

        return make

    made = {"for_few": engine(0.0, 0.01), "for_many": engine(0.05, 0.005), "slow": engine(0.0, 0.04)}
    monkeypatch.setattr("layergraph.execution.tuning.tuner.ENGINES", made)
    found = plan.tune(engines=tuple(made), seconds=20.0)
    assert clock.now <= 20.0
    assert [(choice.rows, choice.engine) for choice in found.choices] == [
        (1, "for_few"),
        (2, "for_few"),
        (8, "for_few"),
        (32, "for_many"),
    ]
    # A call of the others takes more than a twentieth of the time.
    assert found.choices[-1].milliseconds.keys() == {"for_few", "for_many"}
    monkeypatch.setattr("layergraph.execution.tuning.tuner.ENGINES", {"slow": engine(0.1, 0.05)})
    found = plan.tune(engines=("slow",), seconds=20.0)
    assert [(choice.rows, choice.engine) for choice in found.choices] == [(1, "eager"), (2, "eager"), (8, "eager")]


def test_where_time_is_short_the_best_of_fewer_rows_goes_on(
    plan: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than an engine that was fast once, while it was compared."""
    slow_torch(plan, clock, monkeypatch, 0.05)

    def engine(row: float, once: float) -> Any:
        def make(source: Any) -> Any:
            left = [once]

            def run(arrays: Any) -> Any:
                clock.now += len(arrays[0]) * (left.pop() if left else row)
                return [output.numpy() for output in source.program([torch.from_numpy(array) for array in arrays])]

            return run

        return make

    table = {"lucky": engine(0.045, once=0.03), "steady": engine(0.04, once=0.04)}
    monkeypatch.setattr("layergraph.execution.tuning.tuner.ENGINES", table)
    # At 8 rows, for one of the two.
    found = plan.tune(engines=tuple(table), rows=(1, 8), seconds=8.4)
    assert [(choice.rows, choice.engine) for choice in found.choices] == [(1, "steady"), (8, "steady")]
    assert "lucky" not in found.choices[1].milliseconds


def test_shared_calls_are_joined_for_few_rows_and_apart_for_many(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is faster; the result is built again from its name."""
    entries, layer = [layergraph.Input((4,)) for _ in range(2)], layergraph.layers.Dense(3)
    plan = layergraph.Model(entries, layergraph.layers.add([layer(entry) for entry in entries])).plan()
    slow_torch(plan, clock, monkeypatch, 0.05)

    def engine(source: Any) -> Any:
        joined = joins(source.program.steps)

        def run(arrays: Any) -> Any:
            clock.now += 0.02 if joined == (len(arrays[0]) > 4) else 0.01
            return [output.numpy() for output in source.program([torch.from_numpy(array) for array in arrays])]

        return run

    monkeypatch.setattr("layergraph.execution.tuning.tuner.ENGINES", {"some": engine})
    found = plan.tune(engines=("some",), rows=(1, 8), seconds=SECONDS)
    assert [choice.engine for choice in found.choices] == ["some", "some-unmerged"]
    again = plan.tune(engines=(), known=found.choices, seconds=SECONDS)
    assert [choice.tuned.name for choice in again.choices] == ["some", "some-unmerged"]


def test_one_thread_is_chosen_where_cores_are_shared_and_more_are_little_faster(
    plan: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_torch(plan, clock, monkeypatch, 0.05)

    def engine(source: Any) -> Any:
        def run(arrays: Any) -> Any:
            rows = len(arrays[0])
            clock.now += rows * 0.001 / (source.threads if rows > 4 else 1.1 if source.threads > 1 else 1)
            return [output.numpy() for output in source.program([torch.from_numpy(array) for array in arrays])]

        return run

    monkeypatch.setattr("layergraph.execution.tuning.tuner.ENGINES", {"onnxruntime": engine})
    options = {"engines": ("onnxruntime",), "rows": (1, 8), "threads": 2}
    alone = plan.tune(**options)
    assert [choice.engine for choice in alone.choices] == ["onnxruntime", "onnxruntime"]
    found = plan.tune(**options, shared=True)
    assert [choice.engine for choice in found.choices] == ["onnxruntime-1thread", "onnxruntime"]
    again = plan.tune(**options, shared=True, known=found.choices)
    assert [choice.tuned.name for choice in again.choices] == ["onnxruntime-1thread", "onnxruntime"]
    (one_thread,) = plan.tune(engines=("onnxruntime",), rows=(8,), threads=1, shared=True).choices
    assert one_thread.engine == "onnxruntime"


@pytest.mark.parametrize(
    ("variant", "split"), [("openvino-rowparallel", [2, 3, 3]), ("openvino-rowbyrow", [1] * 8)], ids=["parts", "rows"]
)
def test_rows_are_split_between_threads_where_that_is_faster(
    plan: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch, variant: str, split: list[int]
) -> None:
    """The result is built again from its name."""
    calls: list[tuple[int, int]] = []
    timed: list[set[str]] = []

    def engine(source: Any) -> Any:
        def run(arrays: Any) -> Any:
            calls.append((source.threads, len(arrays[0])))
            clock.now += 0.001 * len(arrays[0])
            return [output.numpy() for output in source.program([torch.from_numpy(array) for array in arrays])]

        return run

    def quartiles(timing: dict[str, Any], seconds: float, **_: Any) -> dict[str, float]:
        timed.append({*timing})
        return {name: {variant: 1e-4, "openvino-1thread": 2e-4}.get(name, 1e-3) for name in timing}

    monkeypatch.setattr("layergraph.execution.tuning.tuner.lower_quartiles", quartiles)
    monkeypatch.setattr("layergraph.execution.tuning.tuner.ENGINES", {"openvino": engine})
    options = {"engines": ("openvino",), "rows": (1, 8), "threads": 3, "shared": True}
    found = plan.tune(**options)
    assert [choice.engine for choice in found.choices] == ["openvino-1thread", variant]
    # A single row can't be split.
    assert timed[-2:] == [
        {"eager", "openvino", "openvino-1thread"},
        {"eager", "openvino", "openvino-1thread", "openvino-rowparallel", "openvino-rowbyrow"},
    ]
    data = {plan.input_specs[0].name: torch.rand(8, 4).numpy()}
    for options["known"] in ((), found.choices):
        plan.tune(**options)
        calls.clear()
        (got,) = plan.run(data).values()
        assert sorted(calls) == [(1, rows) for rows in split]
        np.testing.assert_allclose(got, plan.run_eagerly(list(data.values()))[0], rtol=1e-6)


@pytest.mark.parametrize(("options", "expected"), [({}, 3), ({"threads": 0}, 3), ({"threads": 1}, 1)])
def test_engines_take_as_many_threads_as_torch_unless_a_number_is_given(
    plan: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, int], expected: int
) -> None:
    threads: list[int] = []

    def engine(source: Any) -> Any:
        threads.append(source.threads)
        return lambda arrays: [output.numpy() for output in source.program([torch.from_numpy(a) for a in arrays])]

    monkeypatch.setattr("layergraph.execution.tuning.tuner.ENGINES", {"some": engine})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    plan.tune(engines=("some",), pin=True, **options)
    assert threads == [expected]


def test_split_rows_take_no_time_to_build(plan: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their engine is there already, so only comparing is expected to take time: 3 + 3 of 7.5 s are over."""
    slow_torch(plan, clock, monkeypatch, 0.01)

    def engine(source: Any) -> Any:
        clock.now += 3.0

        def run(arrays: Any) -> Any:
            clock.now += 0.001 * len(arrays[0])
            return [output.numpy() for output in source.program([torch.from_numpy(array) for array in arrays])]

        return run

    monkeypatch.setattr("layergraph.execution.tuning.tuner.ENGINES", {"openvino": engine, "torchscript": engine})
    order: list[str] = []
    found = plan.tune(
        engines=("torchscript", "openvino"), rows=(1, 8), threads=2, seconds=SECONDS, shared=True, trying=order.append
    )
    # TorchScript last, though it comes first.
    assert order == ["openvino", "openvino-1thread", "openvino-rowparallel", "openvino-rowbyrow", "torchscript"]
    assert found.dropped.keys() == {"torchscript"}
    assert found.dropped["torchscript"].startswith("no time left")


def test_quick_calls_are_timed_often_but_not_for_ever(plan: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_torch(plan, clock, monkeypatch, 0.001)
    calls = 0

    def engine(source: Any) -> Any:
        def run(arrays: Any) -> Any:
            nonlocal calls
            calls += 1
            clock.now += 0.001
            return [output.numpy() for output in source.program([torch.from_numpy(array) for array in arrays])]

        return run

    monkeypatch.setattr("layergraph.execution.tuning.tuner.ENGINES", {"some": engine})
    assert plan.tune(engines=("some",), rows=(1,), seconds=SECONDS, shared=True).choices
    # 50 turns of five calls, after which a fifth of a second has passed.
    assert 250 <= calls < 300
    assert clock.now < 0.6


def test_threads_that_spin_are_waited_for(clock: Clock) -> None:
    """For 25 ms after a call, threads of one function slow the other one down."""
    last = {"some": -1.0, "other": -1.0}

    def calling(name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            disturbed = any(clock.now - ended < 0.025 for other, ended in last.items() if other != name)
            clock.now += seconds * (2 if disturbed else 1)
            last[name] = clock.now

        return call

    calls = {"some": calling("some", 2e-5), "other": calling("other", 3e-5)}
    assert lower_quartiles(calls, SECONDS, spinning=True) == pytest.approx({"some": 2e-5, "other": 3e-5})
    assert lower_quartiles(calls, SECONDS) == pytest.approx({"some": 4e-5, "other": 6e-5})
    # Enough after some turns, though there is time for more.
    clock.now = 0.0
    lower_quartiles(calls, SECONDS, spinning=True)
    assert clock.now < 0.6
