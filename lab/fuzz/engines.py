"""Compares each engine with eager torch on random graphs: `make -C lab fuzz FUZZ=engines COUNT=100 SEED=0`.

An engine replaces torch if their outputs agree on the inputs of tuning. The fuzzer tries other numbers of rows, other
lengths, other data, and inputs that are refused: outputs and error texts must still be torch's.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import layergraph
import numpy as np
from layergraph.errors import LayerGraphError
from layergraph.execution.passes.merge_shared_calls import joins
from layergraph.execution.plan import Plan
from layergraph.execution.tuning.agreement import TOLERANCE, difference
from layergraph.execution.tuning.result import Choice
from layergraph.execution.tuning.variants import ONE_THREAD, SPLIT_ROWS, UNMERGED
from random_graphs import random_model
from runner import Fuzzer, run

ENGINES = ("onnxruntime", "torchscript", "openvino")
#: More threads than one, so that an engine of one thread differs, and rows have parts.
THREADS = 2
ROWS = (1, 2, 4, 7, 33)
LENGTHS = (4, 1, 9, 6)


def inputs(plan: Plan, rows: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Random data, with `length` for every axis that is open."""
    arrays = []
    for spec in plan.input_specs:
        shape = (rows, *(length if size is None else size for size in spec.shape[1:]))
        whole = "int" in spec.dtype
        arrays.append((rng.integers(0, 7, shape) if whole else rng.standard_normal(shape)).astype(spec.dtype))
    return arrays


def unusual(arrays: list[np.ndarray], rng: np.random.Generator) -> Iterator[list[np.ndarray]]:
    """The same data in arrays of other kinds, numbers that aren't finite at one place, and ids that are refused."""
    yield [np.asfortranarray(array) for array in arrays]
    yield [array.astype(">f4" if array.dtype.kind == "f" else "int64") for array in arrays]
    yield [array.astype("float64" if array.dtype.kind == "f" else "int16") for array in arrays]
    yield [np.abs(array).astype("uint8") for array in arrays]
    for value, id_ in ((np.nan, -1), (np.inf, 7), (-np.inf, 2**31 - 1)):
        changed = [array.copy() for array in arrays]
        for array in changed:
            array.reshape(-1)[rng.integers(array.size)] = value if array.dtype.kind == "f" else 0
        yield changed
        yield [array if array.dtype.kind == "f" else np.full_like(array, id_) for array in arrays]


def answer(plan: Plan, named: dict[str, np.ndarray]) -> list[np.ndarray] | str:
    """The outputs, or the error's text."""
    try:
        return list(plan.run(named).values())
    except LayerGraphError as error:
        return str(error)


def check_engine(model: Any, engine: str, seed: int) -> str | None:
    """Why the engine was dropped, if it was. Raises AssertionError where it computed, and other numbers than torch."""
    plan, eager = Plan(model), Plan(model)
    found = plan.tune(known=(Choice(1, engine, {}),), seconds=600, threads=THREADS, shared=seed % 4 > 1)
    if found.dropped:
        return found.dropped[engine]
    rng = np.random.default_rng(seed)
    names = [spec.name for spec in plan.input_specs]
    for length, rows in itertools.product(
        LENGTHS if any(None in spec.shape[1:] for spec in plan.input_specs) else LENGTHS[:1], ROWS
    ):
        arrays = inputs(plan, rows, length, rng)
        for kind in (arrays, *(unusual(arrays, rng) if rows == ROWS[1] else ())):
            named = dict(zip(names, kind, strict=True))
            expected = answer(eager, named)
            for _ in range(2):  # The first of a new length is torch's.
                got = answer(plan, named)
                what = f"for {rows} rows of length {length}, {[(str(array.dtype), array.shape) for array in kind]}"
                if isinstance(got, str) or isinstance(expected, str):
                    assert str(got) == str(expected), f"{engine} answers {got}, expected {expected}, {what}"
                else:
                    off = difference(got, expected)
                    assert off <= TOLERANCE, f"{engine} differs by {off:.2g} {what}"
    return None


def variants(model: Any) -> list[str]:
    """The names of all engines in all their ways."""
    plan = model.plan()
    endings = ["", ONE_THREAD]
    if plan.batched:
        endings.extend(SPLIT_ROWS)
        if joins(plan.program(joined=True).steps):
            endings.append(UNMERGED)
    return [engine + ending for engine in ENGINES for ending in endings]


def check(seed: int, folder: Path) -> list[str]:
    """Checks all engines on the graph of a seed; returns what became of each. Raises AssertionError if one differs."""
    layergraph.clear_session()
    layergraph.utils.set_random_seed(seed)
    model = random_model(layergraph, seed, rich=seed % 2 == 1)
    rng = np.random.default_rng(seed)
    model.set_weights([w + rng.uniform(0.05, 0.3, w.shape).astype(w.dtype) for w in model.get_weights()])
    outcomes, failures = [], []
    for engine in variants(model):
        try:
            reason = check_engine(model, engine, seed)
        except Exception as error:
            failures.append(f"{engine}: {type(error).__name__}: {str(error)[:300]}")
        else:
            outcomes.append(f"{engine}: {reason[:90]}" if reason else f"{engine} computed")
    assert not failures, "\n".join(failures)
    return outcomes


if __name__ == "__main__":
    sys.exit(run(Fuzzer("engines", "graphs", check, count=100)))
