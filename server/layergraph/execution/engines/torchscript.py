"""TorchScript: torch's own operations without Python in between."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence

import torch

from layergraph.execution.engines.engine import Array, Engine
from layergraph.execution.engines.exported_graph import ExportedGraph
from layergraph.execution.tracing import clear_graph


def torchscript(source: ExportedGraph) -> Engine:
    """The graph, frozen: weights are constants, and operations on constants are folded. Raises CannotTraceError."""
    with torch.no_grad(), warnings.catch_warnings():
        # torch warns that TorchScript is deprecated, but has no replacement that is as fast on small graphs without a
        # compiler.
        warnings.simplefilter("ignore")
        frozen = torch.jit.optimize_for_inference(torch.jit.freeze(source.graph.eval()))
        graph = frozen.graph
        # The first input is the module, which is unused in a frozen graph. A separate function is freed with the
        # engine; the graph, which torch keeps, is cleared then.
        graph.eraseInput(0)
        function = torch._C._create_function_from_graph("forward", graph)

    def run(arrays: Sequence[Array]) -> list[Array]:
        with torch.inference_mode():
            return [output.numpy() for output in function(*(torch.from_numpy(array) for array in arrays))]

    weakref.finalize(run, clear_graph, graph)
    return run
