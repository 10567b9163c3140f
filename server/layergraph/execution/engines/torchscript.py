"""TorchScript: torch's own operations, without Python between them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from layergraph.execution.engines.source import Array, Engine, Source


def torchscript(source: Source) -> Engine:
    """The graph, frozen: weights are constants, and what depends on them alone is computed now."""
    with torch.no_grad(), warnings.catch_warnings():
        # torch calls TorchScript old, and has nothing yet that is as fast on small graphs without a compiler.
        warnings.simplefilter("ignore")
        frozen = torch.jit.optimize_for_inference(torch.jit.freeze(source.graph.eval()))

    def run(arrays: Sequence[Array]) -> list[Array]:
        with torch.inference_mode():
            return [output.numpy() for output in frozen(*(torch.from_numpy(array) for array in arrays))]

    return run
