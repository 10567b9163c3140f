"""Compares random graphs of layers that pass on, read and remove masks with stock Keras: `make -C lab fuzz FUZZ=masks`.

Each graph is built by stock Keras and here, and Keras's is saved and loaded: all must predict the same, and have the
same loss.
"""

from __future__ import annotations

import os
import random
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import layergraph
import numpy as np
from model_oracles import in_order_of_making
from oracles import assert_close, perturb
from runner import Fuzzer, run

IDS = np.array([[3, 1, 4, 1, 0, 0], [5, 2, 6, 0, 0, 0], [1, 2, 3, 4, 5, 6], [7, 0, 0, 0, 0, 0]])
STEPS, WIDTH = IDS.shape[1], 4
#: What is drawn, with two kinds more often.
KINDS = [
    *["attention"] * 5,
    *("own mask", "Add", "Average", "plus", "Concatenate", "Attention", "grouped", "normalized", "Dropout", "Dense"),
    *("LSTM", "Bidirectional", "linear", "Identity", "TimeDistributed", "Conv1D", "model", "model"),
]


def random_masked(k: Any, seed: int) -> tuple[list[Any], list[Any]]:
    """Inputs and outputs of the graph of a seed, by stock Keras or by layergraph."""
    rng = random.Random(seed)
    ids = k.Input((STEPS,), dtype="int64")
    tensors = [k.layers.Embedding(9, WIDTH, mask_zero=True)(ids)]
    _grow(k, rng, tensors, depth=0)
    outputs = [tensors[-1]]
    end = rng.choice(("as it is", "pooled", "LSTM", "two"))
    if end == "pooled":
        outputs = [k.layers.GlobalAveragePooling1D()(rng.choice(tensors))]
    elif end == "LSTM":
        outputs = [k.layers.LSTM(3)(tensors[-1])]
    elif end == "two":
        outputs.append(k.layers.GlobalAveragePooling1D()(rng.choice(tensors)))
    return [ids], outputs


def _grow(k: Any, rng: random.Random, tensors: list[Any], depth: int) -> None:
    """Adds tensors, each made of some of the last three."""
    for _ in range(rng.randint(2, 6)):
        kind, (a, b, c) = rng.choice(KINDS), (rng.choice(tensors[-3:]) for _ in range(3))
        if kind == "model":
            if depth < 2:
                inner = k.Input((STEPS, WIDTH))
                inside = [inner]
                _grow(k, rng, inside, depth + 1)
                model = k.Model(inner, inside[-1])
                tensors += [model(a), model(b)][: rng.randint(1, 2)]
        else:
            tensors.append(_call(k, rng, kind, a, b, c))


def _call(k: Any, rng: random.Random, kind: str, a: Any, b: Any, c: Any) -> Any:
    layers = k.layers
    attention = layers.MultiHeadAttention
    made: dict[str, Any] = {
        "attention": lambda: attention(2, 3)(a, *[b, c][: rng.randint(1, 2)]),
        "own mask": lambda: attention(2, 3)(a, a, use_causal_mask=rng.random() < 0.5),
        "plus": lambda: a + b,
        "Concatenate": lambda: layers.Dense(WIDTH)(layers.Concatenate()([a, b])),
        "grouped": lambda: layers.GroupQueryAttention(2, 2, 1)(a, b),
        "normalized": lambda: layers.LayerNormalization()(a),
        "Dropout": lambda: rng.choice((layers.Dropout, layers.SpatialDropout1D))(0.3)(a),
        "Dense": lambda: layers.Dense(WIDTH)(a),
        "LSTM": lambda: layers.LSTM(WIDTH, return_sequences=True)(a),
        "Bidirectional": lambda: layers.Bidirectional(layers.GRU(WIDTH // 2, return_sequences=True))(a),
        "linear": lambda: layers.Activation("linear")(a),
        "Identity": lambda: layers.Identity()(a),
        "TimeDistributed": lambda: layers.TimeDistributed(layers.Dense(WIDTH))(a),
        "Conv1D": lambda: layers.Conv1D(WIDTH, 3, padding="same")(a),
    }
    return made[kind]() if kind in made else getattr(layers, kind)()([a, b])


def check(seed: int, folder: Path) -> None:
    """Raises AssertionError if outputs or losses of a seed's graph differ by more than 1e-5."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    layergraph.clear_session()
    with warnings.catch_warnings():
        # Keras warns of masks that its nested models take.
        warnings.simplefilter("ignore")
        theirs = keras.Model(*random_masked(keras, seed))
        perturb(theirs, seed)
        expected = [output.detach().numpy() for output in keras.tree.flatten(theirs(IDS, training=False))]
        targets = [np.ones_like(output) for output in expected]
        theirs.save(folder / "model.keras")
        ours = layergraph.Model(*random_masked(layergraph, seed))
        for layer, other in zip(in_order_of_making(ours), in_order_of_making(theirs), strict=True):
            layer.set_weights(other.get_weights())
        theirs.compile("sgd", "mse")
        loss = np.ravel(theirs.evaluate(IDS, targets if len(targets) > 1 else targets[0], verbose=0))[0]
    for model in (ours, layergraph.load_model(folder / "model.keras")):
        results = model.plan().run({model.input_names[0]: IDS})
        for got, want in zip(results.values(), expected, strict=True):
            assert_close(got, want, 1e-5)
        model.compile("sgd", "mse")
        found = np.ravel(model.evaluate(IDS, targets if len(targets) > 1 else targets[0], verbose=0))[0]
        assert_close(np.asarray(found), loss, 1e-5)


if __name__ == "__main__":
    sys.exit(run(Fuzzer("masks", "graphs", check)))
