"""How far a model's outputs move if its inputs and weights change in their last digits, as rounding changes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from layergraph.execution.arrays import as_tensor, to_numpy
from layergraph.exporting.calls import Calls
from layergraph.exporting.cases import Case, differences
from layergraph.functional.runtime_assertions import recording

if TYPE_CHECKING:
    from layergraph.execution.plan import Plan

#: Number of random changes that are tried.
_TRIES = 3


def sensitivities(plan: Plan, calls: Calls, case: Case) -> Sequence[float]:
    """For each output, the largest of its differences (see `cases.differences`) in several random changes."""
    results = []
    for seed in range(_TRIES):
        generator = torch.Generator().manual_seed(seed)
        tensors = [as_tensor(array, spec) for array, spec in zip(case.inputs, plan.input_specs, strict=True)]
        moved = {id(weight): _moved(weight.value, generator) for weight in calls.weights.values()}
        program = calls.program(lambda weight, moved=moved: moved[id(weight)])  # type: ignore[misc]
        with torch.no_grad(), recording():
            outputs = program([_moved(tensor, generator) for tensor in tensors])
        results.append([to_numpy(value) for value in outputs])
    return differences([case] * _TRIES, results)


def _moved(values: Any, generator: torch.Generator) -> Any:
    """Floats, each larger or smaller by the relative distance of two neighbours."""
    if not values.is_floating_point():
        return values
    up = torch.rand(values.shape, generator=generator) < 0.5
    step = torch.finfo(values.dtype).eps
    return torch.where(up, values * (1 + step), values * (1 - step))
