"""Oracles: stock Keras and layergraph are given the same layer, weights and data, and must agree."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import layergraph
import numpy as np
from layergraph.layers.table import LAYERS

#: Keys that Keras writes and that say nothing about the numbers; reading a file drops them.
WITHOUT_MEANING = {"quantization_config"}


def case_id(value: object) -> str:
    """A value as part of a test's name: without addresses, which differ between processes that share the tests."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


@dataclass
class LayerCase:
    """A layer with options, called on inputs of some shapes (rows first); `inputs` replaces random data."""

    class_name: str
    config: dict[str, Any]
    shapes: Sequence[tuple[int, ...]]
    inputs: list[np.ndarray] | None = None
    call: dict[str, Any] = field(default_factory=dict)
    unknown_axes: bool = False

    def __str__(self) -> str:
        options = ",".join(f"{k}={case_id(v)}" for k, v in self.config.items())
        return f"{self.class_name}({options})@{'x'.join(map(str, self.shapes[0]))}"


def random_arrays(shapes: Sequence[tuple[int, ...]], seed: int = 0) -> list[np.ndarray]:
    """Standard normal float32 arrays."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype("float32") for shape in shapes]


def check_layer(case: LayerCase, tolerance: float = 1e-5) -> None:
    """Builds the case in stock Keras and here, with Keras's weights moved off their initial values, and compares."""
    arrays = case.inputs if case.inputs is not None else random_arrays(case.shapes)
    layer = getattr(keras.layers, case.class_name)(**case.config)
    known = (lambda a: (None,) * (a.ndim - 1) + a.shape[-1:]) if case.unknown_axes else (lambda a: (None, *a.shape[1:]))
    symbolic = [keras.Input(batch_shape=known(a), dtype=a.dtype.name) for a in arrays]
    outputs = layer(symbolic if len(symbolic) > 1 else symbolic[0], **case.call)
    model = keras.Model(symbolic, outputs)
    perturb(layer)
    expected = flat(model.predict_on_batch(arrays))

    ours = LAYERS[case.class_name].from_config(with_meaning(layer.get_config()))
    if not any(isinstance(value, keras.layers.Layer) for value in keras.tree.flatten(list(case.config.values()))):
        # Layers in a config get their modules when a file is written.
        type(layer).from_config(ours.get_config())
    # No case has a mask, so a wrong flag would go unnoticed. Embedding and the layers of a Pipeline compute masks.
    if case.class_name not in ("Embedding", "Pipeline"):
        assert ours.supports_masking == layer.supports_masking
    inputs = [layergraph.Input(batch_shape=known(a), dtype=a.dtype.name) for a in arrays]
    made = ours(inputs if len(inputs) > 1 else inputs[0], **case.call)
    rebuilt = layergraph.Model(inputs, made)
    ours.set_weights(layer.get_weights())
    plan = rebuilt.plan()
    result = list(plan.run(dict(zip(rebuilt.input_names, arrays, strict=True))).values())

    assert len(result) == len(expected)
    for got, want, symbol, spec in zip(result, expected, flat(outputs), rebuilt.outputs, strict=True):
        assert_close(got, want, tolerance)
        assert tuple(symbol.shape) == spec.shape, f"Keras says shape {symbol.shape}, layergraph {spec.shape}"
        assert str(symbol.dtype) == spec.dtype, f"Keras says {symbol.dtype}, layergraph {spec.dtype}"


def with_meaning(config: Any) -> Any:
    """The config without keys that say nothing, in layers inside of it too."""
    if isinstance(config, dict):
        return {key: with_meaning(value) for key, value in config.items() if key not in WITHOUT_MEANING}
    return [with_meaning(item) for item in config] if isinstance(config, list) else config


def perturb(layer: Any, seed: int = 1) -> None:
    """Gives weights other values than zeros and ones, so that a swapped weight shows."""
    rng = np.random.default_rng(seed)
    layer.set_weights(
        [
            (
                np.abs(w) + rng.uniform(0.1, 0.5, w.shape)
                if "variance" in v.path
                else w + 0.2 * rng.standard_normal(w.shape)
            ).astype(w.dtype)
            for v, w in zip(layer.weights, layer.get_weights(), strict=True)
        ]
    )


def flat(outputs: Any) -> list[Any]:
    """Outputs as a flat list, in Keras's order."""
    return list(keras.tree.flatten(outputs))


def assert_close(got: np.ndarray, want: Any, tolerance: float = 1e-5) -> None:
    """Equal to `tolerance`, absolute for small and relative for large numbers; equal NaNs are equal."""
    want = np.asarray(want.detach().cpu() if hasattr(want, "detach") else want)
    assert got.shape == want.shape, f"shape {got.shape}, expected {want.shape}"
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
