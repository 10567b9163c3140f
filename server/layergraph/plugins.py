"""Plugins: custom layers and activations that extend the built-in tables.

    from layergraph.plugins import register_layer, replace_lambda

    @register_layer("my_package")            # in files: my_package>Scale, as registered in Keras
    class Scale(Layer): ...

    @register_keras_serializable("my_package")   # the same under Keras's name; functions are activations
    class Shift(Layer): ...

    @replace_lambda("halve")                 # replaces the Lambda layer named `halve`
    class Halve(Layer): ...

    @register_activation("my_package")       # a function of a tensor
    def squash(x): ...

Keras writes classes and functions that were never registered with their bare names, without a package; register them
without a package, as in `register_layer()`. A lambda as an activation is `register_activation(name="<lambda>")`.

Modules with such classes are imported only if a setting or an installed package's entry point (group
`layergraph.layers`) names them. A file never causes an import: its names are only looked up among registered ones.
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

from layergraph.config.options import short_repr
from layergraph.config.values import CUSTOM
from layergraph.errors import ConfigError
from layergraph.functional.layer import Layer

ENTRY_POINTS = "layergraph.layers"

Activation: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
L = TypeVar("L", bound=type[Layer])
A = TypeVar("A", bound=Activation)
S = TypeVar("S")
T = TypeVar("T")

_classes: dict[str, type[Layer]] = {}
_lambdas: dict[str, type[Layer]] = {}
_activations: dict[str, Activation] = {}
#: Objects passed by a caller for one load.
_scope: ContextVar[Mapping[str, Any]] = ContextVar("custom_objects", default=MappingProxyType({}))


def register_layer(package: str = "Custom", name: str | None = None) -> Callable[[L], L]:
    """Registers a layer class under `package>name`, like keras.saving.register_keras_serializable.

    Raises ConfigError if another class has the name.
    """

    def register(layer: L) -> L:
        key = f"{package}>{name or layer.__name__}"
        _add(_classes, key, layer, "class")
        return layer

    return register


def register_keras_serializable(package: str = "Custom", name: str | None = None) -> Callable[[S], S]:
    """Registers a layer class or an activation under `package>name` (keras.saving.register_keras_serializable).

    Raises ConfigError if the name is taken, or for anything but a layer class or a function.
    """

    def register(made: S) -> S:
        if isinstance(made, type) and issubclass(made, Layer):
            register_layer(package, name)(made)
        elif not isinstance(made, type) and callable(made):
            register_activation(package, name)(made)
        else:
            raise ConfigError(f"got {short_repr(made)} to register, expected a layer class or an activation function")
        return made

    return register


def replace_lambda(layer_name: str) -> Callable[[L], L]:
    """Registers a class that replaces all Lambda layers named `layer_name`. It is created with `name`, `trainable` and
    `dtype`.

    Raises ConfigError if another class is registered for the name.
    """

    def register(layer: L) -> L:
        _add(_lambdas, layer_name, layer, "Lambda layer")
        return layer

    return register


def register_activation(package: str = "Custom", name: str | None = None) -> Callable[[A], A]:
    """Registers an activation, a function of a tensor, under `package>name`, like register_keras_serializable.

    Raises ConfigError if another function has the name.
    """

    def register(function: A) -> A:
        key = f"{package}>{name or function.__name__}"

        # Saved models refer to the activation by this name.
        @functools.wraps(function)
        def named(x: torch.Tensor) -> torch.Tensor:
            return function(x)

        named.__name__ = key
        _add(_activations, key, named, "activation")
        return function

    return register


@contextmanager
def custom_object_scope(objects: Mapping[str, Any]) -> Iterator[None]:
    """Makes layer classes and activation functions available by name to loads in the block, in the current thread
    (keras.saving.custom_object_scope).
    """
    token = _scope.set({**_scope.get(), **objects})
    try:
        yield
    finally:
        _scope.reset(token)


def _in_scope(*, classes: bool) -> dict[str, Any]:
    known = {name: made for name, made in _scope.get().items() if isinstance(made, type) == classes}
    return {**{f"{CUSTOM}{name}": made for name, made in known.items()}, **known}


def _add(table: dict[str, Any], key: str, made: Any, what: str) -> None:
    known = table.setdefault(key, made)
    if _origin(known) != _origin(made):
        raise ConfigError(f"{what} '{key}' is registered twice: by {known.__module__} and {made.__module__}")


def _origin(made: Any) -> Any:
    """Returns the class or the original function that was registered."""
    return getattr(made, "__wrapped__", made)


def load_plugins(modules: Iterable[str] = ()) -> list[str]:
    """Imports installed plugins and the named modules; returns the names of everything registered.

    Raises ConfigError if a module can't be imported.
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
    """Returns the registered classes by their names in files; Lambda replacements as `Lambda>` and the layer's name."""
    lambdas = {lambda_class(name): layer for name, layer in _lambdas.items()}
    return {**_bare(_classes), **_classes, **_in_scope(classes=True), **lambdas}


def passed_layers() -> Mapping[str, type[Layer]]:
    """Returns the classes that the caller of a load has passed, by their names."""
    return _in_scope(classes=True)


def registered_name(layer: type[Layer]) -> str | None:
    """Returns the name `package>Name` of a registered class; None for others, including its subclasses."""
    return next((name for name, known in _classes.items() if known is layer), None)


def custom_activations() -> Mapping[str, Activation]:
    """Returns the registered activation functions by their names in files."""
    return {**_bare(_activations), **_activations, **_in_scope(classes=False)}


def _bare(table: Mapping[str, T]) -> dict[str, T]:
    return {name.removeprefix(CUSTOM): made for name, made in table.items() if name.startswith(CUSTOM)}


def lambda_class(layer_name: str) -> str:
    """Returns the class name that replaces the Lambda layer of that name."""
    return f"Lambda>{layer_name}"


def replaced_lambdas() -> Mapping[str, str]:
    """Maps names of Lambda layers to the class names that replace them in `custom_layers`."""
    return {name: lambda_class(name) for name in _lambdas}
