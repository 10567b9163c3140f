"""Every class takes the arguments of its namesake in stock Keras: in Keras's order, with Keras's defaults."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import pytest
from keras.src.activations import activations
from keras.src.ops import core, einops, image, linalg, math, nn, numpy
from layergraph.config.options import _REQUIRED, Configurable, Expected, serialized
from layergraph.constraints import CONSTRAINTS
from layergraph.errors import LayerGraphError
from layergraph.initializers import INITIALIZERS
from layergraph.layers.table import LAYERS
from layergraph.ops.table import OPERATIONS
from layergraph.regularizers import REGULARIZERS
from layergraph.training.callbacks.table import CALLBACKS
from layergraph.training.losses import LOSSES
from layergraph.training.metrics.table import METRICS
from layergraph.training.optimizers.schedules import SCHEDULES
from layergraph.training.optimizers.table import OPTIMIZERS

#: Our table, Keras's module of the classes, and the minimum number of classes compared.
TABLES: dict[str, tuple[Mapping[str, type], tuple[Any, ...], int]] = {
    "layers": (LAYERS, (keras.layers,), 136),
    "operations": (OPERATIONS, (core, image, linalg, math, nn, numpy, activations, einops), 320),
    "initializers": (INITIALIZERS, (keras.initializers,), 16),
    "regularizers": (REGULARIZERS, (keras.regularizers,), 4),
    "constraints": (CONSTRAINTS, (keras.constraints,), 4),
    "losses": (LOSSES, (keras.losses,), 22),
    "metrics": (METRICS, (keras.metrics,), 44),
    "optimizers": (OPTIMIZERS, (keras.optimizers,), 16),
    "schedules": (SCHEDULES, (keras.optimizers.schedules,), 6),
    "callbacks": (CALLBACKS, (keras.callbacks,), 9),
}
#: Arguments that are keyword-only in all classes here.
NAMED = ("name", "dtype", "reduction")
#: Arguments that are positional in Keras, but keyword-only or at another position here, and the reason.
ELSEWHERE: dict[str, str] = {
    "InputLayer": "is made by `Input`",
    "ConvLSTM1D": "takes 'activity_regularizer' by name",
    "ConvLSTM2D": "takes 'activity_regularizer' by name",
    "ConvLSTM3D": "takes 'activity_regularizer' by name",
    "Conv3DTranspose": "takes 'output_padding' where those of fewer axes do",
    "ReversibleEmbedding": "takes 'tie_weights' by name",
    "F1Score": "has the 'beta' of its base first",
    "TensorBoard": "writes no histograms, graphs and images",
    **dict.fromkeys(("Nanpercentile", "Nanquantile", "Percentile", "Quantile"), "share the order of reductions"),
    **dict.fromkeys(("Linspace", "Logspace"), "share the order of ranges"),
    **dict.fromkeys(("CropImages", "PadImages"), "share the order of sizes"),
    "Bincount": "takes its weights in the call",
}
#: Options that are required in one library only: files of some Keras version lack them, or operations are called
#: without a config.
GIVEN = {
    "layers": {
        "InputLayer.batch_shape",
        "AveragePooling1D.pool_size",
        "AveragePooling2D.pool_size",
        "AveragePooling3D.pool_size",
        "CategoryEncoding.num_tokens",
    },
    "operations": {
        "Cast.dtype",
        "SaturateCast.dtype",
        "Full.shape",
        "BroadcastTo.shape",
        "Reshape.newshape",
        "Scatter.shape",
        "Tile.repeats",
        "MultiHot.num_classes",
    },
}
#: Defaults that are equivalent but spelled differently.
SAME = {"layers": {"InputLayer.sparse", "InputLayer.ragged"}}


def classes(kind: str) -> Iterator[tuple[str, type[Configurable], list[inspect.Parameter]]]:
    """Each class that Keras has, too, with the arguments of Keras's."""
    table, modules, _ = TABLES[kind]
    for name, ours in table.items():
        found = next((vars(module)[name] for module in modules if inspect.isclass(vars(module).get(name))), None)
        if found is not None and issubclass(ours, Configurable):
            given = list(inspect.signature(found.__init__).parameters.values())[1:]
            yield name, ours, [p for p in given if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def normal(ours: type[Configurable], name: str, value: Any) -> Any:
    try:
        return serialized(ours.validated(name, value))
    except (LayerGraphError, Expected) as wrong:
        return f"refused: {wrong}"


def same(ours: Any, theirs: Any) -> bool:
    """Whether defaults are equal, or one is a size for all axes of the other."""
    if isinstance(theirs, list) and not isinstance(ours, list):
        return all(same(ours, item) for item in theirs)
    return bool(ours == theirs)


@pytest.mark.parametrize("kind", TABLES)
def test_every_class_of_keras_is_compared(kind: str) -> None:
    assert len(list(classes(kind))) >= TABLES[kind][2]


@pytest.mark.parametrize("kind", TABLES)
def test_arguments_come_in_keras_order(kind: str) -> None:
    """Ours may have more arguments at the end, and fewer positional ones."""
    wrong = {}
    for name, ours, theirs in classes(kind):
        known = [p.name for p in theirs if p.kind is not p.KEYWORD_ONLY and p.name not in NAMED]
        positional = [n for n, option in ours._options.items() if not option.kw_only and n not in NAMED]
        count = len([n for n in positional if n in known])
        if positional[:count] != known[:count]:
            wrong[name] = (positional, known)
    assert wrong.keys() == {name for name in ELSEWHERE if name in TABLES[kind][0]}, wrong


def all_classes() -> list[type[Configurable]]:
    """Also those that Keras doesn't have, such as KerasHub's."""
    waiting, found = [Configurable], []
    while waiting:
        found.append(one := waiting.pop())
        waiting += one.__subclasses__()
    return found


def test_defaults_are_valid() -> None:
    wrong = {
        f"{one.__name__}.{name}": str(wrong)
        for one in all_classes()
        for name, option in one._options.items()
        if option.default is not _REQUIRED and (wrong := normal(one, name, option.default)) is not None
        if isinstance(wrong, str) and wrong.startswith("refused")
    }
    assert wrong == {}


def test_the_first_argument_is_no_name_or_dtype() -> None:
    found = all_classes()
    first = {one: next((name for name, option in one._options.items() if not option.kw_only), "") for one in found}
    assert len(first) > 600
    assert [one for one, name in first.items() if name in ("name", "trainable", "dtype")] == []


#: Classes with positional arguments here that are keyword-only in Keras.
BEHIND_A_NAME = {
    "layers": {"InputLayer"},
    "operations": {"ConvertToTensor", "Geomspace", "Linspace", "Logspace", "MultiHot", "OneHot"},
    "losses": {"Dice", "SparseCategoricalCrossentropy", "Tversky"},
    "metrics": {
        *("BinaryAccuracy", "BinaryCrossentropy", "CategoricalCrossentropy", "ConcordanceCorrelation"),
        *("CosineSimilarity", "PearsonCorrelation", "SparseCategoricalCrossentropy"),
    },
    "schedules": {"CosineDecay"},
}


@pytest.mark.parametrize("kind", TABLES)
def test_what_keras_has_behind_a_name_is_taken_by_name_alone(kind: str) -> None:
    """Otherwise a name passed by position, as in Keras, would be taken for another argument."""
    found = set()
    for name, ours, theirs in classes(kind):
        known = [p.name for p in theirs if p.kind is not p.KEYWORD_ONLY]
        behind = known[next((i for i, each in enumerate(known) if each in NAMED), len(known)) :]
        if any(n in behind and n not in NAMED and not option.kw_only for n, option in ours._options.items()):
            found.add(name)
    assert found == BEHIND_A_NAME.get(kind, set())


@pytest.mark.parametrize("kind", TABLES)
def test_defaults_are_keras_defaults(kind: str) -> None:
    wrong, given = {}, set()
    for name, ours, theirs in classes(kind):
        for parameter in theirs:
            option = ours._options.get(parameter.name)
            label = f"{name}.{parameter.name}"
            if option is None or parameter.name == "name":
                continue
            if (option.default is _REQUIRED) != (parameter.default is parameter.empty):
                given.add(label)
            elif option.default is not _REQUIRED:
                own, their = (normal(ours, parameter.name, value) for value in (option.default, parameter.default))
                if not same(own, their):
                    wrong[label] = (own, their)
    assert wrong.keys() == SAME.get(kind, set()), wrong
    assert given == GIVEN.get(kind, set())
