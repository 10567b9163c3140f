"""Embeddings that only a recurrent layer reads, multiplied with its kernel beforehand.

A recurrent layer first multiplies each step with its kernel. Where steps are rows of a table, the table times the
kernel gives the same, once and for all: what is left to multiply is narrower, by a matrix of ones on its diagonal,
since no engine's recurrent layer goes without.
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
#: Multiplications that a table may take, about a second's.
_MOST_WORK = 5e10


def project_embeddings(steps: Sequence[Step], outputs: Sequence[int], weights: Sequence[Any]) -> list[Any]:
    """The weights of each step, with tables of embeddings that are multiplied already where that saves work.

    `outputs` are the slots that are asked for. Weights that change later aren't followed.
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
    """Whether a call of a layer of these kinds computes in float32, for inference, and takes one tensor at the most."""
    call = step.call
    plain = type(call.layer) in kinds and len(step.sources) == len(step.targets) == 1 and not call.training
    return plain and call.layer.compute_dtype == "float32"


def _projected(table: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor | None:
    """The table times the kernel; None where that is no smaller, or isn't finite: infinity times 0 is none."""
    rows, features = table.shape
    width = kernel.shape[1]
    if table.dtype != torch.float32 or width >= features or rows * features * width > _MOST_WORK:
        return None
    product = table @ kernel
    return product if bool(torch.isfinite(product).all()) else None
