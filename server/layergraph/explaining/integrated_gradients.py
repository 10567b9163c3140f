"""Integrated gradients (Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365), with captum's defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from layergraph.errors import DataError, ExplanationError, ShapeError
from layergraph.execution.arrays import to_numpy
from layergraph.execution.eager_plan import EagerPlan
from layergraph.explaining.path import Path
from layergraph.explaining.varied_plan import VariedPlan
from layergraph.functional.functional import Functional

Array: TypeAlias = np.ndarray[Any, Any]

#: Points on the path from the baseline to the input, as in captum.
N_STEPS = 50
#: What the gradients of one pass may keep, in bytes, unless a single row keeps more.
KEPT_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Attribution:
    """How much each element of some tensors adds to an element of the output, for each row.

    attributions      by name of the tensor, in its shape
    outputs           the explained element of the output, (rows,)
    baseline_outputs  its value for the baselines, (rows,)
    delta             sum of the attributions of a row, less the difference of the two, (rows,): the smaller, the better
                      do the steps approximate the integral
    """

    attributions: dict[str, Array]
    outputs: Array
    baseline_outputs: Array
    delta: Array


def integrated_gradients(
    model: Functional,
    inputs: Mapping[str, Array],
    *,
    output: str | None = None,
    to: Sequence[str] = (),
    target: Any = (),
    baselines: Mapping[str, Array] | None = None,
    n_steps: int = N_STEPS,
    kept_bytes: int = KEPT_BYTES,
) -> Attribution:
    """Attributes an output to its inputs, or to tensors inside of the graph: the integral of its gradients along the
    straight line from their values for the baselines to those for the inputs, by `n_steps` points of Gauss-Legendre.

    inputs      arrays by name, (rows, ...)
    output      an output, or any tensor of the graph; by default the only output
    to          names of inputs, or of tensors inside of the graph such as "embedding:0:0"; by default the inputs that
                the output depends on. Everything that doesn't depend on them keeps its value for the inputs
    target      the explained element of each row of the output: an index for each axis after the rows, (axes,), or one
                for each row, (rows, axes). May be empty if a row has one element
    baselines   arrays by input name with as many rows, or one; by default zeros and empty text
    kept_bytes  memory for gradients, which decides how many rows and steps are computed together

    Raises UnknownTensorError, ExplanationError for tensors that can't be explained, and DataError for arrays that don't
    fit.
    """
    name = output or _only_output(model)
    names = list(to) or [spec.name for spec in EagerPlan(model, [name]).input_specs]
    plan = VariedPlan(model, name, names)
    ends, held = plan.given(inputs)
    rows = len(ends[0])
    if not rows:
        raise DataError("got no rows, expected at least one")
    starts = _starts(plan, inputs, baselines or {}, rows)
    with torch.no_grad():
        shape = tuple(plan.output([end[:1] for end in ends], plan.rows(held, slice(0, 1), 1)).shape)
    path = Path(plan, starts, ends, held, _elements(target, shape, rows, name), n_steps)
    sums = path.integrals(kept_bytes, {weight.value.untyped_storage().data_ptr() for weight in model.weights})
    values, before = path.values(1.0), path.values(0.0)
    delta = sum(one.double().reshape(rows, -1).sum(1) for one in sums) - (values.double() - before.double())
    found = {name: to_numpy(one.to(end.dtype)) for name, one, end in zip(names, sums, ends, strict=True)}
    return Attribution(found, to_numpy(values), to_numpy(before), to_numpy(delta.float()))


def _only_output(model: Functional) -> str:
    names = model.output_names
    if len(names) > 1:
        raise ExplanationError(f"output: got none, expected one of {names}")
    return names[0]


def _starts(
    plan: VariedPlan, inputs: Mapping[str, Array], baselines: Mapping[str, Array], rows: int
) -> list[torch.Tensor]:
    """Returns the varied tensors for the baselines, with as many rows as for the inputs."""
    names = [spec.name for spec in plan.origin_specs]
    if other := sorted(set(baselines).difference(names)):
        raise ExplanationError(
            f"baseline '{other[0]}': got one, expected none: the explained tensors depend on {names} alone"
        )
    given = {name: _baseline(name, inputs[name], baselines.get(name), rows) for name in names}
    if plan.by_row and {len(array) for array in given.values()} == {1}:
        return [value.expand(rows, *value.shape[1:]) for value in plan.varied(given)]
    return plan.varied({name: np.repeat(a, rows // len(a), axis=0) for name, a in given.items()})


def _baseline(name: str, array: Array, baseline: Array | None, rows: int) -> Array:
    """Returns the baseline of an input, with one row or as many as the input."""
    shape = array.shape[1:]
    if baseline is None:
        return np.full((1, *shape), b"" if array.dtype.kind in "OSU" else 0, array.dtype)
    if baseline.shape[1:] != shape or len(baseline) not in (1, rows):
        raise ShapeError(f"baseline '{name}'", baseline.shape, f"{(1, *shape)} or {array.shape}")
    return baseline


def _elements(target: Any, shape: tuple[int, ...], rows: int, output: str) -> torch.Tensor:
    """Returns the position of the explained element in each row of an output, (rows,)."""
    lengths = shape[1:]
    indices = np.asarray(target, dtype=np.int64)
    count = math.prod(lengths)
    if not indices.size:
        if count != 1:
            raise ExplanationError(
                f"target: got none, expected the element of output '{output}' to explain: an index for each axis of "
                f"{lengths}"
            )
        return torch.zeros(rows, dtype=torch.int64)
    if indices.ndim not in (1, 2) or indices.shape[-1] != len(lengths) or (indices.ndim == 2 and len(indices) != rows):
        raise ShapeError("target", indices.shape, f"{(len(lengths),)} or {(rows, len(lengths))}")
    if (indices < 0).any() or (indices >= np.array(lengths)).any():
        raise ExplanationError(
            f"target: got {indices.reshape(-1, len(lengths)).max(0).tolist()}, expected indices from 0 in a row of "
            f"output '{output}', shape {lengths}"
        )
    flat = np.ravel_multi_index(tuple(indices.T), lengths) if lengths else np.zeros(rows, np.int64)
    return torch.from_numpy(np.broadcast_to(flat, (rows,)).copy())
