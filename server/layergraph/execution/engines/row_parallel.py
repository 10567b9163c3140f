"""Rows shared out between threads, each with an engine that has one thread.

An engine's own threads share out each operation, for which those of a recurrent layer, a small product for every step,
are too short.
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
    """`engine`, which computes rows apart and has one thread, with up to `threads` parts of the rows at a time.

    `assertion_count` of its outputs, the last ones, are assertions: each must hold for all parts.
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
    """Those of all engines: whose parts come together wait for one another, as they would for a core."""
    return ThreadPoolExecutor(os.cpu_count(), "rows")
