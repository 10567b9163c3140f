"""The engines of a plan with all their variants. Which is fastest depends on the model and the number of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from layergraph.execution.engines.engine import Engine, UnfitError
from layergraph.execution.engines.exported_graph import ExportedGraph
from layergraph.execution.engines.graph_files import CONTENTS
from layergraph.execution.engines.table import KEEPS_NOT_FINITE
from layergraph.execution.passes.merge_shared_calls import joins
from layergraph.execution.tuning.variant_names import (
    ONE_THREAD,
    ROW_BY_ROW,
    ROW_PARALLEL,
    SINGLE_THREADED,
    UNMERGED,
    has_file,
    of_single,
    parts,
)

#: Engines with single-threaded variants, if a row takes them less than `_SMALL_ROW_SECONDS` seconds.
_FEW_THREADS = ("onnxruntime", "openvino")
_SMALL_ROW_SECONDS = 0.02
#: A row must take them more than this for calls of single rows to be tried.
_CALL_SECONDS = 0.0005


class MakeSource(Protocol):
    """Exports the plan for engines."""

    def __call__(self, threads: int, *, joined: bool) -> ExportedGraph: ...


class Variants:
    """The engines of a table with all their variants, for a plan whose rows are independent if `batched`."""

    def __init__(
        self, table: Mapping[str, Callable[[ExportedGraph], Engine]], source: MakeSource, threads: int, *, batched: bool
    ) -> None:
        self._table = table
        self._threads = threads
        self._batched = batched
        self._sources = {"": source(threads, joined=batched)}
        if joins(self._sources[""].program.steps):
            self._sources[UNMERGED] = source(threads, joined=False)
        #: Single-threaded engines that have been built.
        self._singles: dict[str, Engine] = {}

    def others(self, engine: str, row_seconds: float) -> Iterator[str]:
        """Names of the variants of an engine that are worth trying, given its seconds per row."""
        if UNMERGED in self._sources:
            yield engine + UNMERGED
        if engine not in _FEW_THREADS or row_seconds >= _SMALL_ROW_SECONDS:
            return
        if self._threads > 1:
            yield engine + ONE_THREAD
            if self._batched:
                yield engine + ROW_PARALLEL
        if self._batched and row_seconds > _CALL_SECONDS:
            yield engine + ROW_BY_ROW

    def make(self, name: str) -> Engine:
        """Builds an engine. Raises KeyError for an unknown name, and the engine's own errors."""
        engine, suffix = parts(name)
        if suffix not in SINGLE_THREADED:
            return self._table[engine](self._sources[suffix])
        if engine not in self._singles:
            self._singles[engine] = self._table[engine](self._sources[""].single_threaded())
        return of_single(suffix, self._singles[engine], self._threads, self.assertion_count)

    def content(self, name: str, built: Engine) -> tuple[str, bytes]:
        """Name of the file of an engine that was built, and its content, from which it can be opened again.

        Variants that differ in their threads only have the same file. Raises UnfitError if an engine can't be written.
        """
        engine, suffix = parts(name)
        if not has_file(name):
            raise UnfitError(f"engine '{engine}' can't be written to a file")
        apart = UNMERGED if suffix == UNMERGED else ""
        graph = self._singles[engine] if suffix in SINGLE_THREADED else built
        return engine + apart, CONTENTS[engine](self._sources[apart], graph)

    @property
    def assertion_count(self) -> int:
        """How many of the outputs of each engine are runtime assertions. Raises CannotTraceError."""
        return self._sources[""].assertion_count

    def keeps_not_finite(self, name: str) -> bool:
        """Whether an engine handles NaN and infinities as eager torch does. Raises CannotTraceError."""
        keeps = KEEPS_NOT_FINITE.get(parts(name)[0])
        return keeps is not None and keeps(self._sources[""])

    def release(self) -> None:
        """Releases the exported graphs; no more engines can be built."""
        for source in self._sources.values():
            source.release()
