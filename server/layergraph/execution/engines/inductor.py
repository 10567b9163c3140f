"""torch.compile: operations fused into C++, which is compiled on this machine. Needs a compiler and many seconds."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import torch

from layergraph.execution.engines.engine import Array, Engine, UnfitError
from layergraph.execution.engines.exported_graph import ExportedGraph
from layergraph.functional.meta_kernels import let_compiler_in


def inductor(source: ExportedGraph) -> Engine:
    """The graph, compiled with its weights as constants. Raises UnfitError if there is no C++ compiler."""
    if not (shutil.which("g++") or shutil.which("clang++")):
        raise UnfitError("there is no C++ compiler")
    let_compiler_in()
    import torch._inductor.config as settings

    program = source.program
    with settings.patch(freezing=True):
        compiled = torch.compile(lambda *tensors: program(tensors), dynamic=True)
        with torch.no_grad():
            compiled(*source.samples)

    def run(arrays: Sequence[Array]) -> list[Array]:
        with torch.no_grad():
            return [output.numpy() for output in compiled(*(torch.from_numpy(array) for array in arrays))]

    return run
