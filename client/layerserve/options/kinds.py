"""Kinds of values that an option takes: which are valid, and how they travel in a message."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from layerserve.compile_settings import callbacks_json, class_weight_json, plain
from layerserve.errors import InvalidArgument
from layerserve.v1 import training_pb2


@dataclass(frozen=True)
class Kind:
    """Whatever the field of the message takes. The other kinds refine it."""

    #: The valid values, in words for errors and docstrings.
    expects: str = ""
    #: Further fields of the same message that the value fills.
    beside: tuple[str, ...] = ()

    def encode(self, name: str, value: Any) -> Any:
        """The value as the message holds it. Raises InvalidArgument for one that is not valid."""
        return value

    def valid(self, value: Any) -> bool:
        """Whether a value that `read` gave is in range: a message can hold more than is valid."""
        return True

    def write(self, message: Any, field: str, value: Any) -> None:
        """Set the field to what `encode` gave."""
        setattr(message, field, value)

    def read(self, message: Any, field: str) -> Any:
        """The value of the field, None where it is not set. A number that can't say so is not set where it is 0."""
        presence = message.DESCRIPTOR.fields_by_name[field].has_presence
        value = getattr(message, field)
        return value if (message.HasField(field) if presence else value) else None


@dataclass(frozen=True)
class Flag(Kind):
    """True or False."""

    expects: str = "True or False"


@dataclass(frozen=True)
class Text(Kind):
    """Any text."""

    expects: str = "text"


@dataclass(frozen=True)
class Log(Text):
    """What training measures."""

    expects: str = "the name of a log, such as 'loss'"


@dataclass(frozen=True)
class Number(Kind):
    """Numbers of Python or NumPy, from `least` to below `limit`."""

    least: float = 0
    limit: float = math.inf

    def valid(self, value: Any) -> bool:
        return bool(self.least <= value < self.limit)  # False for NaN

    def encode(self, name: str, value: Any) -> Any:
        number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
        if not (number and self.valid(value) and self._representable(value)):
            raise InvalidArgument(f"{name}: got {value!r}, expected {self.expects}")
        return self._converted(value)

    def _representable(self, value: Any) -> bool:
        return True

    def _converted(self, value: Any) -> Any:
        return float(value)


@dataclass(frozen=True)
class Whole(Number):
    """Whole numbers, also as floats. `limit` says what the field of the message can hold."""

    limit: float = 2**31

    def _representable(self, value: Any) -> bool:
        return bool(value == int(value))

    def _converted(self, value: Any) -> Any:
        return int(value)


@dataclass(frozen=True)
class Size(Whole):
    """Numbers of bytes. The command line also takes them with a unit, such as 2G."""

    expects: str = "a whole number from 1"
    least: float = 1
    limit: float = 2**63


@dataclass(frozen=True)
class Words(Kind):
    """One of a few words. `words` gives the value that the message holds for each."""

    words: Mapping[str, Any] = field(default_factory=dict)

    def encode(self, name: str, value: Any) -> Any:
        if not isinstance(value, str) or value not in self.words:
            raise InvalidArgument(f"{name}: got {value!r}, expected {self.expects}")
        return self.words[value]

    def valid(self, value: Any) -> bool:
        return value in self.words

    def read(self, message: Any, field: str) -> Any:
        """The word; what stands for none is given as it is, for `valid` to refuse."""
        value = super().read(message, field)
        return {held: word for word, held in self.words.items()}.get(value, value)


@dataclass(frozen=True)
class Publication(Kind):
    """Whether a run publishes, and which weights: two fields of the message."""

    expects: str = "True, False, 'last' or 'best'"
    beside: tuple[str, ...] = ("publish_choice",)

    def encode(self, name: str, value: Any) -> Any:
        if not isinstance(value, (bool, str)) or value not in (True, False, "last", "best"):
            raise InvalidArgument(f"{name}: got {value!r}, expected {self.expects}")
        return value

    def write(self, message: Any, field: str, value: Any) -> None:
        chosen = training_pb2.PUBLISH_CHOICE_BEST if value == "best" else training_pb2.PUBLISH_CHOICE_LAST
        message.publish = bool(value)
        message.publish_choice = chosen if value else training_pb2.PUBLISH_CHOICE_UNSPECIFIED

    def read(self, message: Any, field: str) -> Any:
        """None, False or "best"."""
        if message.HasField("publish") and not message.publish:
            return False
        return "best" if message.publish_choice == training_pb2.PUBLISH_CHOICE_BEST else None


@dataclass(frozen=True)
class Patterns(Kind):
    """A pattern, or several."""

    expects: str = "patterns"

    def encode(self, name: str, value: Any) -> Any:
        return [value] if isinstance(value, str) else list(value or ())

    def write(self, message: Any, field: str, value: Any) -> None:
        getattr(message, field).extend(value)

    def read(self, message: Any, field: str) -> Any:
        return tuple(getattr(message, field)) or None


@dataclass(frozen=True)
class Json(Kind):
    """What travels as JSON text. `read` gives the text."""


@dataclass(frozen=True)
class Setting(Json):
    """What Keras's `compile` takes: a name, a serialised object, one with `get_config()`, a list or dict of them."""

    expects: str = "what Keras's compile takes"

    def encode(self, name: str, value: Any) -> Any:
        return None if value is None else json.dumps(plain(name, value))


@dataclass(frozen=True)
class Settings(Setting):
    """The same, where several are usual."""


@dataclass(frozen=True)
class Weights(Setting):
    """Numbers: a list or dict of them."""

    expects: str = "a list or dict of numbers"


@dataclass(frozen=True)
class Callbacks(Json):
    """A callback, or several: names or {"class_name", "config"}."""

    expects: str = "names or {'class_name', 'config'}"

    def encode(self, name: str, value: Any) -> Any:
        return callbacks_json(value)


@dataclass(frozen=True)
class ClassWeight(Json):
    """A number by class."""

    expects: str = "a dict of class index to number"

    def encode(self, name: str, value: Any) -> Any:
        return class_weight_json(value)


def whole(least: int, bits: int = 32) -> Whole:
    """Whole numbers from `least` that a field of so many bits holds."""
    return Whole("a whole number" + (f" from {least}" if least >= 0 else ""), least=least, limit=2 ** (bits - 1))


def words(held: Mapping[str, Any]) -> Words:
    """One of these words, each with what the message holds for it."""
    quoted = [repr(word) for word in held]
    return Words(" or ".join(quoted) if len(quoted) < 3 else f"one of {', '.join(quoted)}", words=held)


SECONDS = Number("seconds from 0")
SHARE = Number("a share from 0 to 1 (exclusive)", limit=1)
