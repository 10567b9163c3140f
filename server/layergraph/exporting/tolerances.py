"""How far a file's outputs may be from a plan's, by the digits that compute them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layergraph.execution.plan import Plan

#: For types with more digits, and for integers.
_LEAST = 1e-5
#: Largest difference relative to an output's largest value, by the type that computes; half the digits of 16 bits.
_TOLERANCES: Mapping[str, float] = {"float16": 1e-2, "bfloat16": 6e-2}


def default_tolerances(plan: Plan) -> list[float]:
    """For each output, the tolerance of the type with the fewest digits among those that compute what it depends on."""
    inputs, outputs = plan.slots
    allowed = dict.fromkeys(inputs, _LEAST)
    for step in plan.steps:
        types = [layer.compute_dtype for layer in step.call.layer.walk_layers()]
        types += [made.dtype for made in step.made]
        most = max([_TOLERANCES.get(one, _LEAST) for one in types] + [allowed[slot] for slot in step.sources])
        allowed |= dict.fromkeys(step.targets, most)
    return [allowed[slot] for slot in outputs]
