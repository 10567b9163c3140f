"""Variants of engines, marked by a suffix of the name."""

from __future__ import annotations

from layergraph.execution.engines.engine import Engine
from layergraph.execution.engines.graph_files import CONTENTS
from layergraph.execution.engines.row_parallel import row_parallel

#: Calls of a shared layer aren't merged. Merging copies their inputs, which pays off for few rows only.
UNMERGED = "-unmerged"
#: One thread: for a small model, more threads cost more than they gain.
ONE_THREAD = "-1thread"
#: Rows split between threads, each with a single-threaded engine: a part for each thread.
ROW_PARALLEL = "-rowparallel"
#: The same, but each call has a single row: what lies between convolutions fits into a core's cache.
ROW_BY_ROW = "-rowbyrow"
SPLIT_ROWS = (ROW_PARALLEL, ROW_BY_ROW)
SINGLE_THREADED = (ONE_THREAD, *SPLIT_ROWS)
_SUFFIXES = (UNMERGED, *SINGLE_THREADED)


def of_single(suffix: str, single: Engine, threads: int, assertion_count: int) -> Engine:
    """The variant of a single-threaded engine whose suffix is one of SINGLE_THREADED."""
    if suffix == ONE_THREAD:
        return single
    return row_parallel(single, threads, assertion_count, single_rows=suffix == ROW_BY_ROW)


def has_file(name: str) -> bool:
    """Whether an engine can be written to a file."""
    return parts(name)[0] in CONTENTS


def parts(name: str) -> tuple[str, str]:
    """An engine's name in the table and its suffix, which may be empty."""
    suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), "")
    return name.removesuffix(suffix), suffix
