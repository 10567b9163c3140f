"""Classes of one's own: what an operator adds to the tables of layers.

    from layergraph.plugins import register_layer, replace_lambda

    @register_layer("my_package")            # in files: my_package>Scale, as Keras registers it
    class Scale(Layer): ...

    @register_keras_serializable("my_package")   # the same, by Keras's name of it; functions are activations
    class Shift(Layer): ...

    @replace_lambda("halve")                 # stands for the Lambda layer named `halve`
    class Halve(Layer): ...

    @register_activation("my_package")       # a function of a tensor
    def squash(x): ...

Files of Keras name a class or function that was never registered by its bare name: without a package, as
`register_layer()`, such a name is found. A lambda as an activation is `register_activation(name="<lambda>")`.

Modules with such classes are imported because a setting or an installed package's entry point (group
`layergraph.layers`) names them. No file ever does: a file's names are only looked up in what is there.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

import torch

from layergraph.config.options import brief
from layergraph.errors import ConfigError
from layergraph.functional.layer import Layer

ENTRY_POINTS = "layergraph.layers"

Activation: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
L = TypeVar("L", bound=type[Layer])
A = TypeVar("A", bound=Activation)
S = TypeVar("S")
T = TypeVar("T")

#: The package of what is registered without one.
_NO_PACKAGE = "Custom>"

_classes: dict[str, type[Layer]] = {}
_lambdas: dict[str, type[Layer]] = {}
_activations: dict[str, Activation] = {}
#: What a caller brings for one reading.
_scope: ContextVar[Mapping[str, Any]] = ContextVar("custom_objects", default=MappingProxyType({}))


def register_layer(package: str = "Custom", name: str | None = None) -> Callable[[L], L]:
    """Adds a class under `package>name`, as keras.saving.register_keras_serializable does.

    Raises ConfigError for a name that another class has.
    """

    def register(layer: L) -> L:
        key = f"{package}>{name or layer.__name__}"
        _add(_classes, key, layer, "class")
        return layer

    return register


def register_keras_serializable(package: str = "Custom", name: str | None = None) -> Callable[[S], S]:
    """Adds a class of layers, or an activation, under `package>name` (keras.saving.register_keras_serializable).

    Raises ConfigError for a name that is taken, and for what is neither a class of layers nor a function.
    """

    def register(made: S) -> S:
        if isinstance(made, type) and issubclass(made, Layer):
            register_layer(package, name)(made)
        elif not isinstance(made, type) and callable(made):
            register_activation(package, name)(made)
        else:
            raise ConfigError(f"got {brief(made)} to register, expected a class of layers or an activation function")
        return made

    return register


def replace_lambda(layer_name: str) -> Callable[[L], L]:
    """Adds a class that stands for every Lambda layer of that name. It is made with `name`, `trainable` and `dtype`.

    Raises ConfigError for a name that has a class.
    """

    def register(layer: L) -> L:
        _add(_lambdas, layer_name, layer, "Lambda layer")
        return layer

    return register


def register_activation(package: str = "Custom", name: str | None = None) -> Callable[[A], A]:
    """Adds an activation, a function of a tensor, under `package>name`, as register_keras_serializable does.

    Raises ConfigError for a name that another function has.
    """

    def register(function: A) -> A:
        key = f"{package}>{name or function.__name__}"

        # Its name is what a saved model says of it.
        @functools.wraps(function)
        def named(x: torch.Tensor) -> torch.Tensor:
            return function(x)

        named.__name__ = key
        _add(_activations, key, named, "activation")
        return function

    return register


@contextmanager
def custom_object_scope(objects: Mapping[str, Any]) -> Iterator[None]:
    """Names in files and configs -> classes of layers and activation functions, for what is read inside of it, in this
    thread (keras.saving.custom_object_scope).
    """
    token = _scope.set({**_scope.get(), **objects})
    try:
        yield
    finally:
        _scope.reset(token)


def _in_scope(*, classes: bool) -> dict[str, Any]:
    known = {name: made for name, made in _scope.get().items() if isinstance(made, type) == classes}
    return {**{f"{_NO_PACKAGE}{name}": made for name, made in known.items()}, **known}


def _add(table: dict[str, Any], key: str, made: Any, what: str) -> None:
    known = table.setdefault(key, made)
    if _origin(known) != _origin(made):
        raise ConfigError(f"{what} '{key}' is registered twice: by {known.__module__} and {made.__module__}")


def _origin(made: Any) -> Any:
    """The class, or the function that was registered."""
    return getattr(made, "__wrapped__", made)


def load_plugins(modules: Iterable[str] = ()) -> list[str]:
    """Imports installed plugins and the named modules; gives the names of all that is registered then.

    Raises ConfigError for a module that can't be imported.
    """
    for point in entry_points(group=ENTRY_POINTS):
        _import(point.value.partition(":")[0])
    for module in modules:
        _import(module)
    functions = (f"activation {name}" for name in sorted(_activations))
    return [*sorted(_classes), *(f"Lambda '{name}'" for name in sorted(_lambdas)), *functions]


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as wrong:
        raise ConfigError(f"plugin '{module}' can't be imported: {type(wrong).__name__}: {wrong}") from wrong


def custom_layers() -> Mapping[str, type[Layer]]:
    """What is registered, by the name that files have for it; Lambda replacements as `Lambda>` and the layer's name."""
    lambdas = {lambda_class(name): layer for name, layer in _lambdas.items()}
    return {**_bare(_classes), **_classes, **_in_scope(classes=True), **lambdas}


def registered_name(layer: type[Layer]) -> str | None:
    """`package>Name`, under which a class is registered; a class derived from it has no such name."""
    return next((name for name, known in _classes.items() if known is layer), None)


def custom_activations() -> Mapping[str, Activation]:
    """The functions that are registered, by the names that files have for them."""
    return {**_bare(_activations), **_activations, **_in_scope(classes=False)}


def _bare(table: Mapping[str, T]) -> dict[str, T]:
    return {name.removeprefix(_NO_PACKAGE): made for name, made in table.items() if name.startswith(_NO_PACKAGE)}


def lambda_class(layer_name: str) -> str:
    """The class name that stands for the Lambda layer of that name."""
    return f"Lambda>{layer_name}"


def replaced_lambdas() -> Mapping[str, str]:
    """Names of Lambda layers -> the class names that stand for them, as `custom_layers` has them."""
    return {name: lambda_class(name) for name in _lambdas}
