"""Splits the rows of a batch between threads, each of which runs a single-threaded engine.

An engine's own threads split single operations. Those of a recurrent layer, a small product per timestep, are too short
for that; and what lies between the layers of a convolutional model fits into a core's cache for one row only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import numpy as np

from layergraph.execution.engines.engine import Array, Engine


def row_parallel(engine: Engine, threads: int, assertion_count: int, *, single_rows: bool) -> Engine:
    """Runs `engine`, whose rows must be independent, in up to `threads` threads.

    Each call has one row if `single_rows`, else an equal part of the rows. The last `assertion_count` outputs
    are runtime assertions, each of which must hold for all calls.
    """

    def run(arrays: Sequence[Array]) -> Sequence[Array]:
        rows = len(arrays[0])
        count = rows if single_rows else min(rows, threads)
        if count < 2:
            return engine(arrays)
        ends = [rows * part // count for part in range(count + 1)]
        found: list[Sequence[Array]] = [()] * count
        # Each thread takes the next part until none is left: a thread whose core is busy takes fewer.
        left = iter(range(count))

        def work() -> None:
            for part in left:
                found[part] = engine([array[ends[part] : ends[part + 1]] for array in arrays])

        others = [_pool().submit(work) for _ in range(min(threads, count) - 1)]
        try:
            work()
        finally:
            # One that hasn't begun has nothing left to do.
            begun = [other for other in others if not other.cancel()]
            wait(begun)
        for other in begun:
            other.result()
        columns = list(zip(*found, strict=True))
        assertions = columns[len(columns) - assertion_count :]
        return [
            *map(np.concatenate, columns[: len(columns) - assertion_count]),
            *(np.asarray(all(d)) for d in assertions),
        ]

    return run


@cache
def _pool() -> ThreadPoolExecutor:
    """The threads of all engines. Concurrent batches wait for one another, as they would for a core."""
    return ThreadPoolExecutor(os.cpu_count(), "rows")
