"""Steps: one call of a plan, and where its tensors lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Step:
    """One call (an `Invocation`, or what stands for one): where its inputs lie among the values, and its outputs go.

    `frees` are the slots that nothing after it reads.
    """

    call: Any
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    frees: tuple[int, ...] = ()
