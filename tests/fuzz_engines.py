"""Compares each engine with eager torch on random graphs: `python tests/fuzz_engines.py [COUNT [FIRST_SEED]]`.

Engines take the place of torch wherever they give its numbers on tuning's own inputs, so what is looked for here are
other numbers of rows, other lengths, and other data, for which they don't. A failure prints its seed.
"""

from __future__ import annotations

import itertools
import os
import sys
import warnings
from collections import Counter
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import layergraph
import numpy as np
from layergraph.errors import LayerGraphError
from layergraph.execution.agreement import TOLERANCE, difference
from layergraph.execution.choice import Choice
from layergraph.execution.joining import joins
from layergraph.execution.plan import Plan
from layergraph.execution.variants import APART
from random_graphs import random_model

ENGINES = ("onnxruntime", "torchscript", "openvino")
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


def check_engine(model: Any, engine: str, seed: int) -> str | None:
    """Why the engine was dropped, if it was. Raises AssertionError where it computed, and other numbers than torch."""
    plan = Plan(model)
    found = plan.tune(known=(Choice(1, engine, {}),), seconds=600)
    if found.dropped:
        return found.dropped[engine]
    rng = np.random.default_rng(seed)
    for length, rows in itertools.product(
        LENGTHS if any(None in spec.shape[1:] for spec in plan.input_specs) else LENGTHS[:1], ROWS
    ):
        arrays = inputs(plan, rows, length, rng)
        named = dict(zip((spec.name for spec in plan.input_specs), arrays, strict=True))
        try:
            expected = plan.run_eagerly(arrays)
        except LayerGraphError:
            continue
        for _ in range(2):  # The first of a new length is torch's.
            off = difference(list(plan.run(named).values()), expected)
            assert off <= TOLERANCE, f"{engine} differs by {off:.2g} for {rows} rows of length {length}"
    return None


def main(count: int, first: int) -> int:
    """Checks `count` seeds from `first` on; the exit status is 1 if any failed."""
    warnings.filterwarnings("ignore")
    failed, dropped = [], Counter[str]()
    for seed in range(first, first + count):
        model = random_model(layergraph, seed, rich=seed % 2 == 1)
        rng = np.random.default_rng(seed)
        model.set_weights([w + rng.uniform(0.05, 0.3, w.shape).astype(w.dtype) for w in model.get_weights()])
        plan = model.plan()
        joined = plan.batched and joins(plan.program(joined=True).steps)
        variants = [engine + end for engine in ENGINES for end in (("", APART) if joined else ("",))]
        for engine in variants:
            try:
                reason = check_engine(model, engine, seed)
            except Exception as error:
                failed.append(seed)
                print(f"seed {seed}: {engine}: {str(error)[:300]}", flush=True)
            else:
                dropped[f"{engine}: {reason[:90]}" if reason else f"{engine} computed"] += 1
    print(f"{count} graphs, {len(failed)} mismatches" + (f": seeds {failed}" if failed else ""))
    for reason, times in dropped.most_common():
        print(f"  {times} {reason}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100, int(sys.argv[2]) if len(sys.argv) > 2 else 0))
