"""Which differences rounding explains: those of a file that is about as near to exact outputs as the plan itself.

Outputs computed in float64 count as exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from layergraph.execution.arrays import as_tensor, to_numpy
from layergraph.exporting.calls import Calls
from layergraph.exporting.cases import Array, Case, relative_distance
from layergraph.functional.runtime_assertions import recording

if TYPE_CHECKING:
    from layergraph.execution.plan import Plan

Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"

#: A file may be this many times as far from exact outputs as the plan.
_MOST = 8.0
#: How often the plan's distance is measured again, with other last digits of inputs and weights. It may be small by
#: chance.
_TRIES = 3
#: Types with fewer digits than float64, and what computes in their place.
_WIDER = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}


def rounding_explains(plan: Plan, calls: Calls, case: Case, got: Sequence[Array], tolerances: Sequence[float]) -> bool:
    """Whether each output of a file differs by at most its tolerance, or is as near to exact outputs as the plan's.

    False, too, if torch can't compute the calls in float64.
    """
    try:
        return _explains(plan, calls, case, got, tolerances)
    except Exception:
        # Kernels may raise anything for a type that they lack.
        return False


def _explains(plan: Plan, calls: Calls, case: Case, got: Sequence[Array], tolerances: Sequence[float]) -> bool:
    tensors = [as_tensor(array, spec) for array, spec in zip(case.inputs, plan.input_specs, strict=True)]
    exact = _exact(calls, tensors, {})
    kept = [_comparable(*pair) for pair in zip(case.outputs, exact, strict=True)]
    off = _distances(got, exact, kept)
    own = [_distances(case.outputs, exact, kept), *(_own_distances(calls, tensors, seed) for seed in range(_TRIES))]
    return all(
        there.shape == want.shape and there.dtype == want.dtype and far <= max(most, _MOST * max(measured))
        for there, want, far, most, *measured in zip(got, case.outputs, off, tolerances, *own, strict=True)
    )


def _own_distances(calls: Calls, tensors: Sequence[torch.Tensor], seed: int) -> list[float]:
    """How far the plan's outputs are from exact ones, with other last digits of inputs and weights."""
    generator = torch.Generator().manual_seed(seed)
    moved = [_moved(tensor, generator) for tensor in tensors]
    weights = {id(weight): _moved(weight.value, generator) for weight in calls.weights.values()}
    found, exact = _run(calls, moved, weights, lambda tensor: tensor), _exact(calls, moved, weights)
    return _distances(found, exact, [_comparable(*pair) for pair in zip(found, exact, strict=True)])


def _run(calls: Calls, tensors: Sequence[Any], weights: Mapping[int, Any], change: Callable[[Any], Any]) -> list[Array]:
    """The outputs, with other values for some weights, for tensors that are changed."""
    with torch.no_grad(), recording():
        program = calls.program(lambda weight: change(weights.get(id(weight), weight.value)))
        return [to_numpy(output) for output in program([change(tensor) for tensor in tensors])]


def _exact(calls: Calls, tensors: Sequence[Any], weights: Mapping[int, Any]) -> list[Array]:
    with _Exact():  # type: ignore[no-untyped-call]
        return _run(calls, tensors, weights, _widened)


class _Exact(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """In the block, torch computes in float64 what it would compute in fewer digits."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(_widened, (args, kwargs or {}))
        return tree_map(_widened, function(*args, **kwargs))


def _widened(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return _WIDER.get(value, value)
    return value.to(_WIDER[value.dtype]) if isinstance(value, torch.Tensor) and value.dtype in _WIDER else value


def _moved(values: Any, generator: torch.Generator) -> Any:
    """Floats, each larger or smaller by the relative distance of two neighbours."""
    if not values.is_floating_point():
        return values
    up = torch.rand(values.shape, generator=generator) < 0.5
    step = torch.finfo(values.dtype).eps
    return torch.where(up, values * (1 + step), values * (1 - step))


def _comparable(found: Array, exact: Array) -> Mask:
    """Where both are finite or the same; elsewhere are overflows, and quotients of what rounding left."""
    kept: Mask = (np.isfinite(found) & np.isfinite(exact)) | (found == exact) | (np.isnan(found) & np.isnan(exact))
    return kept


def _distances(found: Sequence[Array], exact: Sequence[Array], kept: Sequence[Mask]) -> list[float]:
    """How far the elements that are kept are from the exact ones; infinite if a shape differs."""
    return [
        relative_distance(a[where], b[where]) if a.shape == b.shape else np.inf
        for a, b, where in zip(found, exact, kept, strict=True)
    ]
