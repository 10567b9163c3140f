"""Steps: one call of a plan, and where its tensors lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from layergraph.functional.tensor import Tensor


@dataclass(slots=True)
class Step:
    """One call (an `Invocation`, or what stands for one): where its inputs lie among the values, and its outputs go.

    `frees` are the slots that nothing after it reads; `made` says of what shape and type the outputs are.
    """

    call: Any
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    frees: tuple[int, ...] = ()
    made: tuple[Tensor, ...] = ()
