"""Multiplies embedding tables in advance with the kernel of the recurrent layer that alone reads them.

A recurrent layer first multiplies each timestep by its kernel. If timesteps are rows of a table, table @ kernel gives
the same, once and for all. The remaining product is narrower, with an identity matrix as its kernel, since no engine's
recurrent layer can do without one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from layergraph.execution.step import Step
from layergraph.layers.core.basic import Embedding
from layergraph.layers.rnn.recurrent import GRU, LSTM, SimpleRNN

_RECURRENT = (SimpleRNN, LSTM, GRU)
#: Maximum number of multiplications for one table; they take about a second.
_MOST_WORK = 5e10


def project_embeddings(steps: Sequence[Step], outputs: Sequence[int], weights: Sequence[Any]) -> list[Any]:
    """Returns the weights of each step, with embedding tables projected where that saves work.

    `outputs` are the slots of the program's outputs. The projected tables don't follow later changes of the weights.
    """
    readers = Counter(slot for step in steps for slot in step.sources)
    readers.update(outputs)
    tables = {step.targets[0]: place for place, step in enumerate(steps) if _is(step, (Embedding,))}
    result = list(weights)
    for place, step in enumerate(steps):
        source = tables.get(step.sources[0]) if step.sources else None
        if source is None or readers[step.sources[0]] != 1 or not _is(step, _RECURRENT):
            continue
        own = weights[place]
        table = _projected(weights[source].embeddings, own.kernel)
        if table is not None:
            result[source] = SimpleNamespace(embeddings=table)
            result[place] = SimpleNamespace(**{**vars(own), "kernel": torch.eye(own.kernel.shape[1])})
    return result


def _is(step: Step, kinds: tuple[type, ...]) -> bool:
    """Whether a step calls a layer of these kinds in float32, for inference, with one input and one output."""
    call = step.call
    plain = type(call.layer) in kinds and len(step.sources) == len(step.targets) == 1 and not call.training
    return plain and call.layer.compute_dtype == "float32"


def _projected(table: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor | None:
    """table @ kernel; None if that is no narrower than the table, or not finite (infinity times 0 is NaN)."""
    rows, features = table.shape
    width = kernel.shape[1]
    if table.dtype != torch.float32 or width >= features or rows * features * width > _MOST_WORK:
        return None
    product = table @ kernel
    return product if bool(torch.isfinite(product).all()) else None
