"""Steps: the calls of a plan, and the slots of their inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from layergraph.functional.tensor import Tensor


@dataclass(slots=True)
class Step:
    """One call (an `Invocation` or a substitute) with the slots of its inputs (`sources`) and outputs (`targets`).

    `frees` are the slots that no later step reads; `made` has the shapes and dtypes of the outputs.
    """

    call: Any
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    frees: tuple[int, ...] = ()
    made: tuple[Tensor, ...] = ()
