"""Classes of one's own: what an operator adds to the tables of layers.

    from layergraph.plugins import register_layer, replace_lambda

    @register_layer("my_package")            # in files: my_package>Scale, as Keras registers it
    class Scale(Layer): ...

    @replace_lambda("halve")                 # stands for the Lambda layer named `halve`
    class Halve(Layer): ...

Modules with such classes are imported because a setting or an installed package's entry point (group
`layergraph.layers`) names them. No file ever does: a file's names are only looked up in what is there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from typing import TypeVar

from layergraph.errors import ConfigError
from layergraph.functional.layer import Layer

ENTRY_POINTS = "layergraph.layers"

L = TypeVar("L", bound=type[Layer])

_classes: dict[str, type[Layer]] = {}
_lambdas: dict[str, type[Layer]] = {}


def register_layer(package: str = "Custom", name: str | None = None) -> Callable[[L], L]:
    """Adds a class under `package>name`, as keras.saving.register_keras_serializable does.

    Raises ConfigError for a name that another class has.
    """

    def register(layer: L) -> L:
        key = f"{package}>{name or layer.__name__}"
        _add(_classes, key, layer, "class")
        return layer

    return register


def replace_lambda(layer_name: str) -> Callable[[L], L]:
    """Adds a class that stands for every Lambda layer of that name. It is made with `name`, `trainable` and `dtype`.

    Raises ConfigError for a name that has a class.
    """

    def register(layer: L) -> L:
        _add(_lambdas, layer_name, layer, "Lambda layer")
        return layer

    return register


def _add(table: dict[str, type[Layer]], key: str, layer: type[Layer], what: str) -> None:
    if table.setdefault(key, layer) is not layer:
        raise ConfigError(f"{what} '{key}' is registered twice: by {table[key].__module__} and {layer.__module__}")


def load_plugins(modules: Iterable[str] = ()) -> list[str]:
    """Imports installed plugins and the named modules; gives the names of all that is registered then.

    Raises ConfigError for a module that can't be imported.
    """
    for point in entry_points(group=ENTRY_POINTS):
        _import(point.value.partition(":")[0])
    for module in modules:
        _import(module)
    return [*sorted(_classes), *(f"Lambda '{name}'" for name in sorted(_lambdas))]


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as wrong:
        raise ConfigError(f"plugin '{module}' can't be imported: {type(wrong).__name__}: {wrong}") from wrong


def custom_layers() -> Mapping[str, type[Layer]]:
    """What is registered, by the name that files have for it; Lambda replacements as `Lambda>` and the layer's name."""
    return {**_classes, **{lambda_class(name): layer for name, layer in _lambdas.items()}}


def lambda_class(layer_name: str) -> str:
    """The class name that stands for the Lambda layer of that name."""
    return f"Lambda>{layer_name}"


def replaces_lambda(layer_name: str) -> bool:
    """Whether a class stands for the Lambda layer of that name."""
    return layer_name in _lambdas
