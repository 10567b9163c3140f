"""What computes the model of a peer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

#: Threads of one call, for every engine of every peer.
THREADS = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


@dataclass(frozen=True)
class Tensor:
    """An input or an output. `shape` is that of one row, with -1 for an axis that is open."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """Inputs, outputs, and a function from a batch's arrays by name to the results by name, which threads may share."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    run: Callable[[Mapping[str, Any]], dict[str, Any]]
