"""Random sequences that a model accepts, on which a stepper is tried."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from layergraph.errors import NotSteppableError
from layergraph.execution.plan import Plan
from layergraph.execution.samples import NoSamplesError, Sampler
from layergraph.functional.tensor import TensorSpec
from layergraph.stepping.state import Array

#: Fraction of timesteps that hold the value that masks hide.
_MASKED = 0.25


def random_sequences(
    plan: Plan, timed: Collection[str], *, rows: int, timesteps: int, seed: int = 0
) -> dict[str, Array]:
    """Random inputs by name, with this number of timesteps, and of rows, where the plan leaves them open.

    Some timesteps are masked, if the model masks any. Raises NotSteppableError if the model accepts none.
    """
    specs = [_with_timesteps(spec, timesteps) if spec.name in timed else spec for spec in plan.input_specs]
    try:
        sampler = Sampler(specs, plan.run_eagerly)
    except NoSamplesError as reason:
        raise NotSteppableError(f"{reason}, so steps can't be compared with a whole sequence") from None
    drawn = sampler.rows(rows, seed=seed)
    chosen = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for spec, array in zip(specs, drawn, strict=True):
        arrays[spec.name] = _masked(array, _fill(plan, spec), chosen) if spec.name in timed else array
    return arrays


def _with_timesteps(spec: TensorSpec, timesteps: int) -> TensorSpec:
    rows, length, *rest = spec.shape
    return replace(spec, shape=(rows, timesteps if length is None else length, *rest))


def _fill(plan: Plan, spec: TensorSpec) -> Any:
    """The value of an input that masks hide: the mask_value of a layer that reads it (keras.layers.Masking), else 0."""
    slot = plan.slots[0][[own.name for own in plan.input_specs].index(spec.name)]
    found = (getattr(step.call.layer, "mask_value", None) for step in plan.steps if slot in step.sources)
    return next((value for value in found if isinstance(value, (int, float))), 0)


def _masked(array: Array, fill: Any, chosen: np.random.Generator) -> Array:
    """The array with some timesteps that hold `fill`, the first and last ones of some rows among them."""
    hidden = chosen.random(array.shape[:2]) < _MASKED
    hidden[0, :1], hidden[-1, -1:] = True, True
    array[hidden] = np.asarray(fill).astype(array.dtype)
    return array


def cuts(lengths: Mapping[str, int], seed: int) -> Sequence[Mapping[str, slice]]:
    """Parts of sequences of these lengths, by input: cut at random, into at least two parts if there are timesteps.

    Sequences of equal length are cut at the same timesteps.
    """
    chosen = np.random.default_rng(seed)
    shortest = min(lengths.values())
    count = min(shortest, 2 + int(chosen.integers(0, 3)))
    parts: list[dict[str, slice]] = [{} for _ in range(count)]
    for length in sorted(set(lengths.values())):
        inner = sorted(chosen.choice(np.arange(1, length), count - 1, replace=False)) if count > 1 else []
        for part, (start, end) in zip(parts, pairwise([0, *map(int, inner), length]), strict=True):
            part.update({name: slice(start, end) for name, own in lengths.items() if own == length})
    return parts
