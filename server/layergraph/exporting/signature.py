"""The names of a model's inputs and outputs in exports to TensorFlow, which clients of TensorFlow Serving use.

tf.keras 2 names inputs by their layers, and outputs by theirs, with numbers for several outputs of a layer. Keras 3's
`Model.export` names outputs by the keys of a dict, or else `output_0`, `output_1`, ...
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from layergraph.functional.functional import Functional
from layergraph.functional.tensor import Tensor

#: Key of the signature that requests use by default.
DEFAULT_KEY = "serving_default"
#: Name of an `Input` that was created without one, in Keras 3.
UNNAMED = re.compile(r"input_layer(?:_([0-9]+))?")


@dataclass(frozen=True, slots=True)
class Signature:
    """Names of the inputs and outputs, in the order of `input_specs` and `output_specs`.

    `unnamed` are the inputs that were created without a name, in the order of their creation. A model that is exported
    by the program that has created it names them `keras_tensor`, `keras_tensor_1`, ..., with gaps.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    unnamed: tuple[str, ...] = ()


def signatures_of(model: Functional) -> dict[str, Signature]:
    """Returns the signatures that an export of the model by its own release of Keras has, by key."""
    inputs = tuple(model.input_names)
    if model.keras_version is not None and model.keras_version.split(".")[0] in ("1", "2"):
        return {DEFAULT_KEY: Signature(inputs, _by_layers([tensor.history.layer.name for tensor in model.outputs]))}
    numbers = {name: int(match[1] or 0) for name in inputs if (match := UNNAMED.fullmatch(name))}
    signature = Signature(inputs, _by_structure(model), tuple(sorted(numbers, key=lambda name: numbers[name])))
    return {"serve": signature, DEFAULT_KEY: signature}


def _by_layers(names: list[str]) -> tuple[str, ...]:
    """Returns unique names, numbered as by tf.keras: the second `dense` is `dense_1`, or else the next free one."""
    numbers: Counter[str] = Counter()
    unique: dict[str, None] = {}
    for name in names:
        proposed = name
        while proposed in unique:
            numbers[name] += 1
            proposed = f"{name}_{numbers[name]}"
        unique[proposed] = None
    return tuple(unique)


def _by_structure(model: Functional) -> tuple[str, ...]:
    structure = model.graph.outputs
    if isinstance(structure, dict) and all(isinstance(value, Tensor) for value in structure.values()):
        return tuple(sorted(structure))
    return tuple(f"output_{index}" for index in range(len(model.outputs)))
