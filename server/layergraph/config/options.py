"""Options: typed, validated fields of layers, optimizers, losses and other objects with a config.

A class declares each option once, as a field; loading a file and calling from Python use the same validation:

    class Dense(Layer):
        units: int = option(positive_int)
        use_bias: bool = option(boolean, default=True)

A validator returns a value in its normal form, or raises `Expected` with a description of what it accepts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
from typing_extensions import Self, dataclass_transform

from layergraph.errors import ConfigError, LayerGraphError, unknown_name

T = TypeVar("T")
Validator = Callable[[Any], T]


class Expected(Exception):
    """A value isn't accepted by an option. The text completes "expected ..."."""


class _Required:
    """Default of a required option."""


_REQUIRED = _Required()


@dataclass(frozen=True, slots=True)
class Option:
    """One field: its validator, its default, whether it is keyword-only, and whether `get_config` has it."""

    validate: Validator[Any]
    default: Any
    kw_only: bool
    saved: bool


def option(validate: Validator[Any], *, default: Any = _REQUIRED, kw_only: bool = False, saved: bool = True) -> Any:
    """Declares a field of a `Configurable`. Without `default` the option is required.

    An option that isn't `saved` is none of Keras 3's: files of other releases set it, or it has no effect.
    """
    return Option(validate, default, kw_only, saved)


@dataclass_transform(field_specifiers=(option,))
class Configurable:
    """An object described by options. Subclasses declare them as fields and check combinations in `setup`."""

    _options: ClassVar[dict[str, Option]] = {}
    #: The class name in configs, if it isn't that of this class.
    serialized_as: ClassVar[str | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Option)}
        for name in own:
            delattr(cls, name)
        # Positional options of the bases come before a subclass's own, and keyword-only ones behind them.
        inherited: dict[str, Option] = {}
        for base in cls.__bases__:
            known = getattr(base, "_options", {})
            inherited |= {name: value for name, value in known.items() if name not in own and name not in inherited}
        positional = {n: o for n, o in inherited.items() if not o.kw_only}
        named = {n: o for n, o in inherited.items() if o.kw_only}
        cls._options = {**positional, **own, **named}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        owner = type(self).__name__
        names = [name for name, field in self._options.items() if not field.kw_only]
        if len(args) > len(names):
            raise ConfigError(f"{owner}: got {len(args)} positional arguments, expected at most {len(names)}: {names}")
        given = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name not in self._options:
                raise ConfigError(f"{owner}: " + unknown_name("option", name, self._options))
            if name in given:
                raise ConfigError(f"{owner}: option '{name}' is given twice")
            given[name] = value
        for name, field in self._options.items():
            value = given.get(name, field.default)
            if value is _REQUIRED:
                raise ConfigError(f"{owner}: option '{name}' is missing")
            setattr(self, name, self.validated(name, value))
        self.setup()

    @classmethod
    def validated(cls, name: str, value: Any) -> Any:
        """Returns the normal form of an option's value. Raises ConfigError, or what the validator raises."""
        try:
            return cls._options[name].validate(value)
        except Expected as wrong:
            raise ConfigError(f"{cls.__name__}: option '{name}' is {short_repr(value)}, expected {wrong}") from None
        except LayerGraphError as wrong:
            raise type(wrong)(f"{cls.__name__}: option '{name}': {wrong}") from wrong

    def setup(self) -> None:
        """Checks combinations of options. Called after all are set."""

    def get_config(self) -> dict[str, Any]:
        """Returns the options as JSON values, by Keras 3's names."""
        return {name: serialized(self.option_value(name)) for name, field in self._options.items() if field.saved}

    def option_value(self, name: str) -> Any:
        """Returns the value of an option for the config. Overridden if the attribute of that name is something else."""
        return getattr(self, name)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Creates an object from the result of `get_config`. Raises ConfigError."""
        return cls(**config)


def short_repr(value: object) -> str:
    """Formats `value` for an error text: one line, at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def serialized(value: Any) -> Any:
    """Converts `value` to JSON: objects to {"class_name", "config"}, functions of our tables to their Keras names."""
    if isinstance(value, UnknownObject):
        return value.described
    if isinstance(value, Configurable):
        return {"class_name": value.serialized_as or type(value).__name__, "config": value.get_config()}
    if isinstance(value, Mapping):
        return {key: serialized(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [serialized(item) for item in value]
    if callable(value):
        return value.__name__
    return value.item() if isinstance(value, np.generic) else value


def keras_object(module: str, value: Configurable) -> dict[str, Any]:
    """Keras 3's serialised form of an object, with the module in which Keras looks for its class."""
    return {"module": module, **serialized(value), "registered_name": None}


def resolve(kind: str, value: object, table: Mapping[str, type[T]], aliases: Mapping[str, str] | None = None) -> T:
    """Like Keras's `get`: returns an object of `table` for an object, a class, a name, or {"class_name", "config"}.

    Module and registered name of a serialised object are ignored: only `table` is searched. Raises ConfigError.
    """
    if isinstance(value, type) and value in table.values():
        made: T = value()
        return made
    if isinstance(value, tuple(table.values())):
        return cast(T, value)
    config: Mapping[str, Any] = {}
    name: object = value
    if isinstance(value, Mapping) and "class_name" in value:
        name = value["class_name"]
        config = value.get("config") or {}
        if not isinstance(config, Mapping):
            raise ConfigError(f"config of {kind} {short_repr(name)} is {short_repr(config)}, expected an object")
    if not isinstance(name, str):
        raise ConfigError(
            f"{kind} is {short_repr(value)}, expected a name, an instance, or an object with class_name and config"
        )
    known = (aliases or {}).get(name, name)
    if known not in table:
        raise ConfigError(unknown_name(kind, name, [*table, *(aliases or {})]))
    found: Any = table[known]
    made = found.from_config(config)
    return made


# Validators.

#: Maximum size, checked before sizes are multiplied or memory is allocated.
MAX_SIZE = 2**31


def integer(value: Any) -> int:
    """Validator: an integer of any sign; booleans and fractions aren't accepted."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or abs(int(value)) > MAX_SIZE:
        raise Expected("an integer")
    return int(value)


def positive_int(value: Any) -> int:
    """Validator: an integer above zero."""
    try:
        number = integer(value)
    except Expected:
        number = 0
    if number < 1:
        raise Expected("a positive integer")
    return number


def nonnegative_int(value: Any) -> int:
    """Validator: an integer of at least zero."""
    try:
        number = integer(value)
    except Expected:
        number = -1
    if number < 0:
        raise Expected("an integer of at least 0")
    return number


def number(value: Any) -> float:
    """Validator: a finite number."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        raise Expected("a number")
    try:
        result = float(value)
    except OverflowError:
        raise Expected("a finite number") from None
    if not math.isfinite(result):
        raise Expected("a finite number")
    return result


def nonnegative(value: Any) -> float:
    """Validator: a finite number of at least zero."""
    result = number(value)
    if result < 0:
        raise Expected("a number of at least 0")
    return result


def fraction(value: Any) -> float:
    """Validator: a number from 0 to 1."""
    result = number(value)
    if not 0 <= result <= 1:
        raise Expected("a number from 0 to 1")
    return result


def boolean(value: Any) -> bool:
    """Validator: true or false. Older Keras versions wrote 0 and 1."""
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise Expected("true or false")


def text(value: Any) -> str:
    """Validator: any text."""
    if not isinstance(value, str):
        raise Expected("text")
    return value


def is_unicode(value: str) -> bool:
    """Whether UTF-8 can encode a text: it has no half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def unicode_text(value: Any) -> str:
    """Validator: text that UTF-8 can encode."""
    if not is_unicode(text(value)):
        raise Expected("Unicode text")
    return str(value)


def one_of(*choices: str) -> Validator[str]:
    """Validator: one of a few words."""

    def validate(value: Any) -> str:
        if isinstance(value, str) and value in choices:
            return value
        raise Expected(" or ".join(repr(choice) for choice in choices))

    return validate


def optional(validate: Validator[T]) -> Validator[T | None]:
    """Validator: None, or what `validate` accepts."""

    def accept(value: Any) -> T | None:
        if value is None:
            return None
        try:
            return validate(value)
        except Expected as wrong:
            raise Expected(f"{wrong}, or None") from None

    return accept


def as_list(value: Any) -> Any:
    """An array as a list, as Keras takes one for the other; any other value as it is."""
    return value.tolist() if isinstance(value, np.ndarray) else value


def list_of(validate: Validator[T], most: int | None = None) -> Validator[tuple[T, ...]]:
    """Validator: a list, tuple or array, of at most `most` items."""

    def accept(value: Any) -> tuple[T, ...]:
        value = as_list(value)
        if not isinstance(value, (list, tuple)):
            raise Expected("a list")
        if most is not None and len(value) > most:
            raise Expected(f"at most {most} items")
        try:
            return tuple(validate(item) for item in value)
        except Expected as wrong:
            raise Expected(f"a list in which each item is {wrong}") from None

    return accept


def one_or_list_of(validate: Validator[T], most: int | None = None) -> Validator[T | tuple[T, ...]]:
    """Validator: one value, or a list of at most `most` values."""
    several = list_of(validate, most)

    def accept(value: Any) -> T | tuple[T, ...]:
        value = as_list(value)
        return several(value) if isinstance(value, (list, tuple)) else validate(value)

    return accept


def sizes(rank: int, validate: Validator[int] = positive_int) -> Validator[tuple[int, ...]]:
    """Validator: `rank` integers, or one for all axes, as for kernel sizes and strides."""

    def accept(value: Any) -> tuple[int, ...]:
        items: Iterable[Any] = value if isinstance(value, (list, tuple)) else (value,) * rank
        try:
            result = tuple(validate(item) for item in items)
        except Expected as wrong:
            raise Expected(f"{wrong}, or {rank} of them") from None
        if len(result) != rank:
            raise Expected(f"one integer or {rank} of them")
        return result

    return accept


def shape(value: Any) -> tuple[int | None, ...]:
    """Validator: a shape, a list of lengths, None for unknown ones."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value,)
    if not isinstance(value, (list, tuple)):
        raise Expected("a shape such as [null, 28, 28]")
    try:
        return tuple(None if item is None else nonnegative_int(item) for item in value)
    except Expected:
        raise Expected("a shape such as [null, 28, 28]") from None


def anything(value: Any) -> Any:
    """Validator: any value, unchanged, for options without effect here."""
    return value


class UnknownObject(Configurable):
    """An object of a file, whose code isn't there: it is kept as it is stored."""

    described: Any = option(anything)

    @property
    def label(self) -> str:
        """Its name in the file."""
        return short_repr(self.described.get("class_name") if isinstance(self.described, Mapping) else self.described)
