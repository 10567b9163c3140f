"""TorchScript: torch's own operations, without Python between them."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence

import torch

from layergraph.execution.engines.exported_graph import Array, Engine, ExportedGraph
from layergraph.execution.tracing import clear_graph


def torchscript(source: ExportedGraph) -> Engine:
    """The graph, frozen: weights are constants, and what depends on them alone is computed now."""
    with torch.no_grad(), warnings.catch_warnings():
        # torch calls TorchScript old, and has nothing yet that is as fast on small graphs without a compiler.
        warnings.simplefilter("ignore")
        frozen = torch.jit.optimize_for_inference(torch.jit.freeze(source.graph.eval()))
        graph = frozen.graph
        # Its first input is the module, which a frozen one needs no more. As a function of its own it goes when the
        # engine does; what torch keeps is clear_graph then.
        graph.eraseInput(0)
        function = torch._C._create_function_from_graph("forward", graph)

    def run(arrays: Sequence[Array]) -> list[Array]:
        with torch.inference_mode():
            return [output.numpy() for output in function(*(torch.from_numpy(array) for array in arrays))]

    weakref.finalize(run, clear_graph, graph)
    return run
