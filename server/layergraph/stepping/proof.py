"""The proof that a model's outputs for a whole sequence are those of its steps: on random sequences, cut at random."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from layergraph.errors import LayerGraphError, NotSteppableError
from layergraph.execution.arrays import as_tensor
from layergraph.execution.batch_independence import is_batch_independent
from layergraph.execution.plan import Plan
from layergraph.functional.dtypes import torch_dtype
from layergraph.stepping.call_check import check_calls
from layergraph.stepping.sequences import cuts, random_sequences
from layergraph.stepping.state import Array
from layergraph.stepping.step_graph import StepGraph

if TYPE_CHECKING:
    from layergraph.stepping.stepper import Stepper

_ROWS = 2
#: Number of timesteps where the model leaves it open.
_TIMESTEPS = 7
#: Largest difference, relative to the output's largest value (at least 1), in units of the dtype's precision: 1e-6 in
#: float32, 8e-3 in float16, 6e-2 in bfloat16.
_ROUNDINGS = 8
#: In how many ways a sequence is cut. A long one, whose timesteps may be images, takes its time.
_CUTS, _LONG_CUTS, _LONG = 3, 1, 16


def prove(stepper: Stepper, whole: Plan, graph: StepGraph) -> None:
    """Compares steps with whole sequences. Raises NotSteppableError, with the layer and the reason, if they differ."""
    plan = stepper.plan
    _check_rows(plan, graph)
    own = random_sequences(whole, stepper.timed_inputs, rows=_ROWS, timesteps=_TIMESTEPS)
    rows = len(next(iter(own.values())))
    timesteps = min(own[name].shape[1] for name in stepper.timed_inputs)
    states = stepper.initial_states(rows, own)
    try:
        longer = own if timesteps >= _TIMESTEPS else _repeated(own, stepper.timed_inputs)
        given = {**longer, **states}
        check_calls(plan, [as_tensor(given[spec.name], spec) for spec in plan.input_specs], graph)
        _compare(stepper, own, whole.run(own), range(_LONG_CUTS if timesteps > _LONG else _CUTS), graph)
        if longer is not own:
            # Of a file with one timestep, there are no parts: compared with the step of all timesteps.
            outputs, _ = stepper.advance(_taken(stepper, longer), states)
            _compare(stepper, longer, outputs, range(_CUTS), graph)
    except NotSteppableError:
        raise
    except LayerGraphError as wrong:
        raise NotSteppableError(f"a step fails: {wrong}") from wrong


def _taken(stepper: Stepper, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {spec.name: arrays[spec.name] for spec in stepper.input_specs}


def _repeated(arrays: Mapping[str, Array], timed: Collection[str]) -> dict[str, Array]:
    """Sequences of more timesteps, made of those there are, in another order."""
    order = np.random.default_rng(0)
    return {
        name: array[:, order.integers(0, array.shape[1], _TIMESTEPS)] if name in timed else array
        for name, array in arrays.items()
    }


def _check_rows(plan: Plan, graph: StepGraph) -> None:
    """Raises NotSteppableError if rows depend on one another."""
    if plan.batched:
        return
    for step in plan.steps:
        if not is_batch_independent([step]):
            raise NotSteppableError("computes with several rows together", *graph.cause(step.call.layer))
    raise NotSteppableError("an output has no rows")


def _compare(
    stepper: Stepper,
    arrays: Mapping[str, Array],
    expected: Mapping[str, Array],
    seeds: Sequence[int],
    graph: StepGraph,
) -> None:
    """Computes the sequence in random parts. Raises NotSteppableError if outputs differ from those expected."""
    rows = len(next(iter(arrays.values())))
    lengths = {name: arrays[name].shape[1] for name in stepper.timed_inputs}
    taken = _taken(stepper, arrays)
    tolerance = _ROUNDINGS * max(torch.finfo(dtype).eps for dtype in _dtypes(stepper.plan))
    for seed in seeds:
        states = stepper.initial_states(rows, arrays)
        made: list[Mapping[str, Array]] = []
        for part in cuts(lengths, seed):
            inputs = {name: array[:, part[name]] if name in part else array for name, array in taken.items()}
            outputs, states = stepper.advance(inputs, states)
            made.append(outputs)
        for name, whole in expected.items():
            steps = [one[name] for one in made]
            got = np.concatenate(steps, 1) if name in stepper.timed_outputs else steps[-1]
            off = _difference(got, whole)
            if not off <= tolerance:
                cause = graph.cause(graph.outputs[name].history.layer)
                raise NotSteppableError(f"gives steps that differ by {off:.2g} from the whole sequence", *cause)


def _dtypes(plan: Plan) -> list[torch.dtype]:
    """Floating-point dtypes in which the plan computes."""
    names = {step.call.layer.compute_dtype for step in plan.steps} | {"float32"}
    return [dtype for dtype in map(torch_dtype, names) if dtype.is_floating_point]


def _difference(got: Array, expected: Array) -> float:
    """The largest difference, relative to the largest expected value, at least 1; infinite for other shapes."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return np.inf
    if got.dtype.kind != "f":
        return 0.0 if np.array_equal(got, expected) else np.inf
    wide, other = got.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(other)
    if not np.array_equal(wide[~finite], other[~finite], equal_nan=True):
        return np.inf
    off = np.abs(wide[finite] - other[finite]).max(initial=0.0)
    return float(off / max(1.0, np.abs(other[finite]).max(initial=0.0)))
