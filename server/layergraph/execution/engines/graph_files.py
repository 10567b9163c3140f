"""Engines that are opened from files, instead of being made of a plan's graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from layergraph.execution.engines.engine import Engine, UnfitError
from layergraph.execution.engines.onnx.runtime import exported, input_names, session
from layergraph.execution.engines.open_vino import CompiledModel, open_vino_of_blob, open_vino_of_onnx

if TYPE_CHECKING:
    from layergraph.execution.engines.exported_graph import ExportedGraph


@dataclass(frozen=True, slots=True)
class GraphFiles:
    """The folder of a plan's graphs, and how engines run them.

    dtypes    of the plan's inputs
    threads   number of threads that a call of an engine may use
    shared    whether other work uses the same cores
    streams   number of calls that an engine must be able to compute at the same time
    """

    folder: Path
    dtypes: tuple[str, ...]
    threads: int
    shared: bool
    streams: int = 1

    def single_threaded(self) -> GraphFiles:
        """The same files for calls of one thread, as many at a time as these files' calls have threads."""
        return replace(self, threads=1, streams=self.threads)

    def onnx_runtime(self, file: str) -> Engine:
        """Raises UnfitError if there is no such file, or ONNX Runtime isn't installed."""
        return session(self._read(file), len(self.dtypes), self.threads, shared=self.shared)

    def open_vino(self, file: str) -> Engine:
        """For a model in ONNX format. Raises UnfitError if there is no such file, or OpenVINO isn't installed."""
        names = input_names(len(self.dtypes))
        return open_vino_of_onnx(self._read(file), names, self.dtypes, self.threads, self.streams)

    def open_vino_blob(self, file: str) -> Engine:
        """For a model that OpenVINO has written. Raises UnfitError as `open_vino` does."""
        return open_vino_of_blob(self._read(file), self.dtypes, self.threads, self.streams)

    def _read(self, file: str) -> bytes:
        try:
            return (self.folder / file).read_bytes()
        except FileNotFoundError:
            raise UnfitError(f"there is no file '{file}'") from None


#: Engine -> what is written of it, from the graph that it was built from.
CONTENTS: Mapping[str, Callable[[ExportedGraph, Engine], bytes]] = {
    "onnxruntime": lambda source, engine: exported(source),
    "openvino": lambda source, engine: cast("CompiledModel", engine).blob(),
}
#: Engine -> how it is opened from such a file.
OPENED: Mapping[str, Callable[[GraphFiles, str], Engine]] = {
    "onnxruntime": GraphFiles.onnx_runtime,
    "openvino": GraphFiles.open_vino_blob,
}
