"""Which pixels a graph expects: its first Rescaling layer says whether 0 to 255, or 0 to 1."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np

Range: TypeAlias = tuple[float, float]
#: Calls by the id of a tensor that they take, with its place among their tensors.
Takers: TypeAlias = dict[int, list[tuple[Any, int]]]

#: The ranges that images have in practice, the most common first.
RANGES: Final[tuple[Range, ...]] = ((0.0, 255.0), (0.0, 1.0), (-1.0, 1.0))
#: Layers that leave the range of pixels as it is, besides models and those whose names begin with "Random".
PASSING: Final = frozenset(("InputLayer", "Identity", "Resizing", "CenterCrop", "Dropout", "ZeroPadding2D"))
#: Maximum numbers of layers before the Rescaling, and of models around it.
MAX_STEPS, MAX_DEPTH = 16, 8
#: Maximum number of channels of images.
MAX_CHANNELS = 1024
#: How far a rescaled range may be from one of `RANGES`: scales are rounded in files.
TOLERANCE: Final = 0.02


def image_ranges(model: Any) -> dict[str, Range]:
    """Returns the range of each input that reaches a Rescaling first; nothing of a model that has no graph."""
    if getattr(model, "graph", None) is None:
        return {}
    names = [spec.name for spec in model.input_specs]
    takers = _takers(model)
    ranges: dict[str, Range] = {}
    for name, tensor in zip(names, model.inputs, strict=True):
        layer = _rescaling(model, takers, tensor, MAX_DEPTH)
        if layer is not None and (found := expected(layer.scale, layer.offset)) is not None:
            ranges[name] = found
    return ranges


def expected(scale: Any, offset: Any) -> Range | None:
    """Returns the range that a Rescaling maps to another range of images: 0 to 255 for a scale of 1 / 255.

    None if it has other numbers than one for all values, or one for each channel.
    """
    factors, terms = _numbers(scale), _numbers(offset)
    count = max(len(factors), len(terms))
    if not all(0 < len(numbers) <= MAX_CHANNELS and len(numbers) in (1, count) for numbers in (factors, terms)):
        return None
    pairs = [(factors[at % len(factors)], terms[at % len(terms)]) for at in range(count)]
    for low, high in RANGES:
        for wanted in RANGES:
            ends = ((low * factor + term, high * factor + term) for factor, term in pairs)
            if wanted != (low, high) and all(_near(end, wanted) for end in ends):
                return low, high
    # Means and deviations of a data set, for instance: pixels to 255 are scaled down by far more than those to 1.
    return RANGES[0] if max(abs(factor) for factor, _ in pairs) < 0.1 else RANGES[1]


def _rescaling(model: Any, by_tensor: Takers, tensor: Any, depth: int) -> Any:
    """Returns the Rescaling that takes a tensor of a model's graph; None if another layer computes with it first."""
    for _ in range(MAX_STEPS):
        takers = by_tensor.get(id(tensor), [])
        if len(takers) != 1:
            return None
        node, position = takers[0]
        layer, name = node.layer, node.layer.keras_class_name
        inner = layer.inner_model
        if name == "Rescaling":
            return layer
        if inner is not None:
            found = _rescaling(inner, _takers(inner), inner.inputs[position], depth - 1) if depth else None
            if found is not None or not _passes_inside(inner):
                return found
        elif name not in PASSING and not name.startswith("Random"):
            return None
        tensor = node.output_tensors[0]
    return None


def _passes_inside(model: Any) -> bool:
    """Whether a model, such as one of random changes, leaves the range of its only input as it is."""
    kinds = [layer.keras_class_name for layer in model.graph.layers]
    return len(model.inputs) == 1 and all(kind in PASSING or kind.startswith("Random") for kind in kinds)


def _takers(model: Any) -> Takers:
    """Returns the calls that take each tensor, with its place among their tensors. A model may have many inputs."""
    found: Takers = {}
    for node in model.graph.nodes:
        for position, given in enumerate(node.input_tensors):
            found.setdefault(id(given), []).append((node, position))
    return found


def _numbers(value: Any) -> list[float]:
    # Options are numbers, or nested lists with one for each channel.
    return [float(one) for one in np.ravel(value)]


def _near(end: tuple[float, float], wanted: Range) -> bool:
    return all(abs(got - want) <= TOLERANCE * (wanted[1] - wanted[0]) for got, want in zip(end, wanted, strict=True))
