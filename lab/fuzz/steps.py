"""Compares steps of random models with their whole sequences: `make -C lab fuzz FUZZ=steps COUNT=120 SEED=0`.

Each model is built by stock Keras, saved and loaded here. Steps, for random cuts, must equal the whole sequence here
(1e-6) and stock Keras's (1e-5), and where Keras can, its own steps with `stateful=True` (1e-5). Every sixth model has a
layer that looks at other timesteps: it must be refused by that layer's name.
"""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import layergraph
import numpy as np
from layergraph.errors import NotSteppableError
from layergraph.functional.nest import flatten
from oracles import assert_close, perturb
from random_sequence_models import SequenceModel, random_arrays, random_sequence_model
from runner import Fuzzer, run

Arrays = dict[str, np.ndarray]

ROWS = 3
#: Every how many models one can't be stepped.
BROKEN = 6
OWN_TOLERANCE, KERAS_TOLERANCE = 1e-6, 1e-5


def check(seed: int, folder: Path) -> str | list[str]:
    """Steps the model of a seed. Raises AssertionError if numbers differ, or a refusal doesn't name the layer."""
    breaks = seed % BROKEN == BROKEN - 1
    made = _keras_model(seed, breaks=breaks)
    made.model.save(folder / "model.keras")
    loaded = layergraph.load_model(folder / "model.keras")
    if breaks:
        return _refusal(loaded, made)
    arrays = random_arrays(made, ROWS, seed)
    stepper = loaded.stepper()
    # Inputs that no output depends on may be anything.
    used = [spec.name for spec in loaded.plan(loaded.output_names).input_specs]
    timed = [name for name in used if name not in made.static]
    found = [name for name in stepper.timed_inputs if name in used]
    assert sorted(found) == sorted(timed), f"inputs with timesteps: {found} not {timed}"
    whole = list(loaded.plan().run(arrays).values())
    given = [arrays[tensor.name] for tensor in made.model.inputs]
    expected = flatten(made.model(given if len(given) > 1 else given[0], training=False))
    cuts = _random_cuts(next(iter(arrays[name] for name in timed)).shape[1], seed)
    steps = [flatten(stepper.step(_part(arrays, timed, cut, stepper.first_inputs))) for cut in cuts]
    got = _joined(steps, [spec.name in stepper.timed_outputs for spec in stepper.output_specs])
    for own, here, there in zip(got, whole, expected, strict=True):
        _assert_same(own, here)
        assert_close(own, there, KERAS_TOLERANCE)
    kinds = ["steps equal the whole"]
    if made.open and made.memory <= {"recurrent"}:
        _compare_stateful(seed, made, arrays, timed, cuts, steps)
        kinds.append("equal to stateful=True")
    return kinds


def _keras_model(seed: int, *, breaks: bool = False, **options: Any) -> SequenceModel:
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    made = random_sequence_model(keras, seed, breaks=breaks, **options)
    perturb(made.model, seed)
    return made


def _refusal(loaded: layergraph.Model, made: SequenceModel) -> str:
    """Checks that the model is refused by the name of the layer."""
    try:
        loaded.stepper()
    except NotSteppableError as wrong:
        refusal = wrong
    else:
        raise AssertionError(f"can be stepped, though '{made.breaker}' looks at other timesteps")
    layers = {layer.name for layer in made.model.layers}
    expected = {made.breaker}
    if made.breaker == "*":
        expected = {operation.name for operation in made.model.operations} - layers
    assert refusal.layer in expected, f"refused by '{refusal.layer}', expected {expected}: {refusal}"
    return f"refused: {refusal.reason.split('(')[0].strip()}"


def _random_cuts(timesteps: int, seed: int) -> list[slice]:
    rng = np.random.default_rng(seed)
    inner = sorted(rng.choice(np.arange(1, timesteps), rng.integers(1, timesteps), replace=False).tolist())
    ends = [0, *inner, timesteps]
    return [slice(a, b) for a, b in pairwise(ends)]


def _part(arrays: Arrays, timed: list[str], cut: slice, first: tuple[str, ...] = ()) -> Arrays:
    kept = {name: array for name, array in arrays.items() if not cut.start or name not in first}
    return {name: array[:, cut] if name in timed else array for name, array in kept.items()}


def _joined(steps: list[list[Any]], each: list[bool]) -> list[np.ndarray]:
    """The outputs of all steps: joined where they have timesteps, else the last."""
    parts = zip(*steps, strict=True)
    return [np.concatenate(own, 1) if has_steps else own[-1] for own, has_steps in zip(parts, each, strict=True)]


def _assert_same(got: np.ndarray, whole: np.ndarray) -> None:
    assert got.shape == whole.shape, f"shape {got.shape}, expected {whole.shape}"
    off = np.abs(got - whole).max() / max(1.0, np.abs(whole).max())
    assert off <= OWN_TOLERANCE, f"steps differ by {off:.2g} from the whole sequence"


def _compare_stateful(
    seed: int, made: SequenceModel, arrays: Arrays, timed: list[str], cuts: list[slice], steps: list[list[Any]]
) -> None:
    """Compares each step with that of the same model in stock Keras, with `stateful=True`."""
    twin = _keras_model(seed, stateful=True, rows=ROWS)
    twin.model.set_weights(made.model.get_weights())
    for cut, outputs in zip(cuts, steps, strict=True):
        part = _part(arrays, timed, cut)
        given = [part[tensor.name] for tensor in twin.model.inputs]
        expected = flatten(twin.model(given if len(given) > 1 else given[0], training=False))
        for got, want in zip(outputs, expected, strict=True):
            assert_close(got, want, KERAS_TOLERANCE)


if __name__ == "__main__":
    sys.exit(run(Fuzzer("steps", "models of sequences", check, count=120)))
