"""Engines in several ways, told by the ending of the name: what is the fastest depends on the model and the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from layergraph.execution.engines.exported_graph import Engine, ExportedGraph
from layergraph.execution.engines.row_parallel import row_parallel
from layergraph.execution.engines.table import KEEPS_NOT_FINITE
from layergraph.execution.passes.merge_shared_calls import joins

#: Calls of a shared layer are apart: joining them copies their inputs, which wins for few rows, and loses for many.
UNMERGED = "-unmerged"
#: One thread: for a small model more cost more than they give.
ONE_THREAD = "-1thread"
#: One thread for each part of the rows.
ROW_PARALLEL = "-rowparallel"
_ENDINGS = (UNMERGED, ONE_THREAD, ROW_PARALLEL)
#: Engines that are tried with one thread, and in parts, if a row takes them less than these seconds.
_FEW_THREADS = ("onnxruntime", "openvino")
_SMALL = 0.01


class MakeSource(Protocol):
    """Makes what engines are made from."""

    def __call__(self, threads: int, *, joined: bool) -> ExportedGraph: ...


class Variants:
    """The engines of a table, each in all its ways, for a plan whose rows may be `batched`."""

    def __init__(
        self, table: Mapping[str, Callable[[ExportedGraph], Engine]], source: MakeSource, threads: int, *, batched: bool
    ) -> None:
        self._table = table
        self._threads = threads
        self._batched = batched
        self._sources = {"": source(threads, joined=batched)}
        if joins(self._sources[""].program.steps):
            self._sources[UNMERGED] = source(threads, joined=False)
        #: Engines of one thread that were made.
        self._singles: dict[str, Engine] = {}

    def others(self, engine: str, row_seconds: float) -> Iterator[str]:
        """What else an engine of the table is worth trying as, by the seconds of a row."""
        if UNMERGED in self._sources:
            yield engine + UNMERGED
        if self._threads > 1 and engine in _FEW_THREADS and row_seconds < _SMALL:
            yield engine + ONE_THREAD
            if self._batched:
                yield engine + ROW_PARALLEL

    def make(self, name: str) -> Engine:
        """Makes an engine. Raises KeyError for a name that isn't known here, and what the engine raises."""
        engine, ending = _parts(name)
        if ending not in (ONE_THREAD, ROW_PARALLEL):
            return self._table[engine](self._sources[ending])
        source = self._sources[""].with_threads(1)
        if engine not in self._singles:
            self._singles[engine] = self._table[engine](source)
        single = self._singles[engine]
        return single if ending == ONE_THREAD else row_parallel(single, self._threads, source.demand_count)

    def keeps_not_finite(self, name: str) -> bool:
        """Whether an engine makes of NaN and infinities what eager torch does. Raises CannotTraceError."""
        keeps = KEEPS_NOT_FINITE.get(_parts(name)[0])
        return keeps is not None and keeps(self._sources[""])

    def release(self) -> None:
        """Lets go what engines are made from: no more are made."""
        for source in self._sources.values():
            source.release()


def _parts(name: str) -> tuple[str, str]:
    """An engine of the table, and the ending that says which way; empty for its own."""
    ending = next((ending for ending in _ENDINGS if name.endswith(ending)), "")
    return name.removesuffix(ending), ending
