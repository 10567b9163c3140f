"""Numbers of TensorFlow 2.15 for layers where Keras on torch has others, from fixtures/tensorflow_layers.npz."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from layergraph.layers.table import LAYERS

FIXTURE = Path(__file__).parents[1] / "fixtures" / "tensorflow_layers.npz"


@dataclass
class TensorFlowCase:
    """A layer with options and weights, an input, and what TensorFlow made of it."""

    class_name: str
    config: dict[str, Any]
    weights: list[np.ndarray]
    x: np.ndarray
    y: np.ndarray

    def __str__(self) -> str:
        options = ",".join(f"{k}={v}" for k, v in self.config.items())
        return f"{self.class_name}({options})"

    def check(self, tolerance: float = 1e-5) -> None:
        """Builds the layer here and compares."""
        layer = LAYERS[self.class_name].from_config(self.config)
        layer.build_for((self.x,))
        layer.set_weights(self.weights)
        with torch.no_grad():
            got = layer(self.x).numpy()
        assert got.shape == self.y.shape
        np.testing.assert_allclose(got, self.y, rtol=tolerance, atol=tolerance)


@lru_cache
def _all_cases() -> tuple[TensorFlowCase, ...]:
    with np.load(FIXTURE) as arrays:
        told = json.loads(str(arrays["cases"]))
        return tuple(
            TensorFlowCase(
                name, config, [arrays[f"{i}_w{j}"] for j in range(weights)], arrays[f"{i}_x"], arrays[f"{i}_y"]
            )
            for i, (name, config, weights) in enumerate(told)
        )


def tensorflow_cases(part_of_name: str) -> list[TensorFlowCase]:
    """The cases of all classes with that in their name."""
    cases = [case for case in _all_cases() if part_of_name in case.class_name]
    assert cases, f"no case of {part_of_name} in the fixture"
    return cases
