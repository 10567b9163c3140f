"""Splits the rows of a batch between threads, each of which runs a single-threaded engine.

An engine's own threads split single operations. Those of a recurrent layer, a small product per timestep, are too short
for that.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np

from layergraph.execution.engines.exported_graph import Array, Engine


def row_parallel(engine: Engine, threads: int, assertion_count: int) -> Engine:
    """Runs `engine`, whose rows must be independent, on up to `threads` parts of the rows at a time.

    The last `assertion_count` outputs are runtime assertions, each of which must hold for all parts.
    """

    def run(arrays: Sequence[Array]) -> Sequence[Array]:
        rows = len(arrays[0])
        count = min(rows, threads)
        if count < 2:
            return engine(arrays)
        ends = [rows * part // count for part in range(count + 1)]
        parts = [[array[begin:end] for array in arrays] for begin, end in pairwise(ends)]
        others = [_pool().submit(engine, part) for part in parts[1:]]
        columns = list(zip(engine(parts[0]), *[other.result() for other in others], strict=True))
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
