"""The zoo as an oracle: the very files of the zoo, run by stock Keras. Only their imports are led elsewhere."""

from __future__ import annotations

import builtins
import importlib
import inspect
import os
from collections.abc import Iterable
from types import ModuleType, SimpleNamespace
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from layerserve_zoo.zoo import ZOO
from oracles import perturb

ELSEWHERE = {"layergraph": keras, "layergraph.layers": keras.layers}


def stock(name: str, seed: int = 1) -> Any:
    """The small model of that name made by stock Keras, with weights of its own and default names from zero.

    No weight stays at an initial zero or one, so that a swapped one shows.
    """
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(seed)
    model = in_keras(name).build(**ZOO[name].small)
    perturb(model)
    return model


def in_keras(name: str) -> ModuleType:
    """The zoo's module of that name, with every import from layergraph answered by Keras."""

    def import_from(module: str, *scope: Any) -> Any:
        if module in ELSEWHERE:
            return ELSEWHERE[module]
        if module == "layerserve_zoo":
            return SimpleNamespace(**{part: in_keras(part) for part in scope[2]})
        return builtins.__import__(module, *scope)

    original = importlib.import_module(f"layerserve_zoo.{name}")
    mirrored = ModuleType(name)
    mirrored.__dict__["__builtins__"] = {**vars(builtins), "__import__": import_from}
    exec(compile(inspect.getsource(original), f"{name}.py in Keras", "exec"), mirrored.__dict__)
    return mirrored


def random_rows(specs: Iterable[Any], rows: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """Data for inputs, by name: ids below 100 where integers are wanted, else standard normal numbers."""
    rng = np.random.default_rng(seed)
    return {
        spec.name: (
            rng.integers(0, 100, (rows, *spec.shape[1:]))
            if "int" in spec.dtype
            else rng.standard_normal((rows, *spec.shape[1:]))
        ).astype(spec.dtype)
        for spec in specs
    }
