"""Explanations beside captum's, on five models with random weights: compare_explanations.py.

captum differentiates the graph itself, called as a torch function, with the inner tensors as its inputs, by its
IntegratedGradients; ours go through a server. Also prints the processor time of both. Needs `pip install captum`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import IntegratedGradients
from layergraph import Input, Model, layers
from layergraph.functional.call_context import CallContext
from layergraph.utils import set_random_seed
from layerserve import Client
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings

#: Largest difference, relative to the largest attribution, and of the delta.
TOLERANCE = 1e-5


@dataclass
class Case:
    """A model, what is explained, and the same as captum sees it: `rest` makes the output of the explained tensors."""

    model: Model
    inputs: Mapping[str, np.ndarray]
    options: Mapping[str, Any] = field(default_factory=dict)
    output: str = ""
    #: A model from the explained tensors to the output, and the tensors for inputs and for baselines; None: the inputs.
    rest: Model | None = None
    explained: Model | None = None
    baselines: Mapping[str, np.ndarray] | None = None


def convolutions(rng: np.random.Generator) -> Case:
    image = Input((32, 32, 3), name="image")
    h = layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", activation="relu")(image))
    h = layers.MaxPooling2D()(layers.Conv2D(32, 3, strides=2, activation="relu")(h))
    h = layers.Add()([h, layers.Conv2D(32, 3, padding="same", activation="gelu")(h)])
    h = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(h))
    model = Model(image, layers.Dense(10, activation="softmax", name="class")(h))
    return Case(model, {"image": rng.random((4, 32, 32, 3), "float32")}, {"target": [1, 2, 3, 4]})


def text(rng: np.random.Generator) -> Case:
    ids = Input((12,), dtype="int32", name="ids")
    embedded = layers.Embedding(50, 8, name="embedding")(ids)
    tail = Input((12, 8), name="tail")
    lstm, dense = layers.LSTM(16, name="lstm"), layers.Dense(3, name="class")
    model, rest = Model(ids, dense(lstm(embedded))), Model(tail, dense(lstm(tail)))
    return Case(
        model,
        {"ids": rng.integers(1, 50, (5, 12)).astype("int32")},
        {"target": 2, "to": "embedding"},
        rest=rest,
        explained=Model(ids, embedded),
    )


def two_inputs(rng: np.random.Generator) -> Case:
    image, facts = Input((16, 16, 1), name="image"), Input((7,), name="facts")
    h = layers.Flatten()(layers.Conv2D(4, 5, activation="tanh")(image))
    h = layers.Multiply()([layers.Dense(6)(h), layers.Dense(6, activation="sigmoid")(facts)])
    given = {"image": rng.random((3, 16, 16, 1), "float32"), "facts": rng.random((3, 7), "float32")}
    start = {"image": rng.random((1, 16, 16, 1), "float32"), "facts": np.ones((1, 7), "float32")}
    model = Model([image, facts], layers.Dense(2, name="y")(h))
    return Case(model, given, {"target": 1, "baselines": start, "n_steps": 80}, baselines=start)


def two_outputs(rng: np.random.Generator) -> Case:
    x = Input((20,), name="x")
    h = layers.LayerNormalization()(layers.Dense(16, activation="swish")(x))
    scores = layers.Reshape((4, 3), name="scores")(layers.Dense(12)(h))
    model = Model(x, {"scores": scores, "price": layers.Dense(1, name="price")(h)})
    return Case(model, {"x": rng.normal(size=(6, 20)).astype("float32")}, {"target": (2, 1)}, output="scores")


def shared(rng: np.random.Generator) -> Case:
    left, right = Input((9, 4), name="left"), Input((9, 4), name="right")
    tower_x = Input((9, 4), name="tower_x")
    tower = Model(tower_x, layers.GRU(8)(layers.Conv1D(6, 3, activation="relu")(tower_x)), name="tower")
    h = layers.Concatenate()([tower(left), tower(right), layers.Dot(axes=1)([tower(left), tower(right)])])
    given = {name: rng.normal(size=(4, 9, 4)).astype("float32") for name in ("left", "right")}
    return Case(Model([left, right], layers.Dense(1, activation="sigmoid", name="same")(h)), given)


CASES: Sequence[Callable[[np.random.Generator], Case]] = (convolutions, text, two_inputs, two_outputs, shared)


def by_captum(case: Case) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns captum's attributions to each explained tensor, and its convergence delta."""
    model = case.rest or case.model
    plan = model.plan([case.output] if case.output else None)

    def forward(*tensors: torch.Tensor) -> torch.Tensor:
        return plan.forward(CallContext(losses=None), tensors)[0][0]

    given, start = case.inputs, case.baselines
    if case.explained is not None:
        name = case.model.input_names[0]
        given = {"tail": case.explained.predict(case.inputs[name])}
        start = {"tail": case.explained.predict(np.zeros_like(case.inputs[name]))}
    target = case.options.get("target")
    found, delta = IntegratedGradients(forward).attribute(
        tuple(torch.from_numpy(given[name]) for name in model.input_names),
        baselines=None if start is None else tuple(torch.from_numpy(start[name]) for name in model.input_names),
        target=target,
        n_steps=case.options.get("n_steps", 50),
        return_convergence_delta=True,
    )
    return [one.detach().numpy() for one in found], delta.detach().numpy()


def main() -> int:
    """Returns the exit status."""
    cases = {}
    for seed, make in enumerate(CASES):
        set_random_seed(seed)
        cases[make.__name__] = make(np.random.default_rng(seed))
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name, case in cases.items():
            (Path(folder) / name / "1").mkdir(parents=True)
            case.model.save(Path(folder) / name / "1" / "model.keras")
        settings = Settings(path=folder, host="127.0.0.1", grpc_port=0, metrics_port=-1)
        with App(settings) as app, Client(f"127.0.0.1:{app.grpc_port}", timeout=300) as client:
            for name, case in cases.items():
                began = time.monotonic()
                ours = client.explain(name, case.inputs, output=case.output or None, **case.options)
                seconds = time.monotonic() - began
                theirs, delta = by_captum(case)
                arrays = list(ours.by_tensor.values())
                scale = max(float(np.abs(one).max()) for one in theirs)
                worst = max(float(np.abs(a - b).max()) for a, b in zip(arrays, theirs, strict=True))
                apart = float(np.abs(ours.convergence_delta - delta).max())
                wrong = not max(worst / scale, worst, apart) <= TOLERANCE
                failed |= wrong
                print(
                    f"{'WRONG ' if wrong else ''}{name}: largest attribution {scale:.3g}, difference {worst:.2g}, "
                    f"of the delta {apart:.2g}; {seconds:.1f} s"
                )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
