"""Kinds of option values: which values are valid, and how they are encoded in a message."""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from layerserve.errors import InvalidArgument
from layerserve.training.compile_settings import callbacks_json, class_weight_json, lora_json, plain
from layerserve.v1 import training_pb2

#: An idempotency key, and a key of metadata.
KEY = re.compile(r"[A-Za-z0-9._:-]{1,128}")
METADATA_KEY = re.compile(r"[A-Za-z0-9._/-]{1,64}")
#: Maximum number of a run's metadata, and length of each text, in characters.
MAX_METADATA = 32
MAX_METADATA_TEXT = 512


@dataclass(frozen=True)
class Kind:
    """Any value that the field of the message accepts. Base class of the other kinds."""

    #: Description of the valid values, for errors and docstrings.
    expects: str = ""
    #: Further fields of the same message that are set by the value.
    beside: tuple[str, ...] = ()

    def encode(self, name: str, value: Any) -> Any:
        """Returns the value for the message. Raises InvalidArgument if it is invalid."""
        return value

    def valid(self, value: Any) -> bool:
        """Whether a value returned by `read` is valid: a message may contain other values."""
        return True

    def write(self, message: Any, field: str, value: Any) -> None:
        """Sets the field to a value returned by `encode`."""
        setattr(message, field, value)

    def read(self, message: Any, field: str) -> Any:
        """Returns the value of the field; None if it isn't set. Without field presence, 0 and "" count as unset."""
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
class Key(Text):
    """A key of letters, digits and some other characters."""

    expects: str = "1 to 128 letters, digits, '.', '_', ':' and '-'"

    def valid(self, value: Any) -> bool:
        return isinstance(value, str) and KEY.fullmatch(value) is not None

    def encode(self, name: str, value: Any) -> Any:
        if not self.valid(value):
            raise InvalidArgument(f"{name}: got {value!r}, expected {self.expects}")
        return value


def repeatable(key: str | None) -> str:
    """Returns an idempotency key, which is drawn unless there is one. Raises InvalidArgument."""
    return uuid.uuid4().hex if key is None else str(Key().encode("idempotency_key", key))


@dataclass(frozen=True)
class Metadata(Kind):
    """Texts by key."""

    expects: str = (
        "a dict of at most 32 texts of 512 characters, with keys of 1 to 64 letters, digits, '.', '_', '/' and '-'"
    )

    def valid(self, value: Any) -> bool:
        return (
            isinstance(value, Mapping)
            and len(value) <= MAX_METADATA
            and all(isinstance(key, str) and METADATA_KEY.fullmatch(key) is not None for key in value)
            and all(isinstance(text, str) and len(text) <= MAX_METADATA_TEXT for text in value.values())
        )

    def encode(self, name: str, value: Any) -> Any:
        if not self.valid(value):
            raise InvalidArgument(f"{name}: got {value!r}, expected {self.expects}")
        return dict(value)

    def write(self, message: Any, field: str, value: Any) -> None:
        getattr(message, field).update(value)

    def read(self, message: Any, field: str) -> Any:
        return dict(getattr(message, field)) or None


@dataclass(frozen=True)
class Log(Text):
    """Name of a log, such as a loss or metric."""

    expects: str = "the name of a log, such as 'loss'"


@dataclass(frozen=True)
class Monitored(Log):
    """A log, with ":min" or ":max" behind it if its name doesn't say what is better."""

    expects: str = (
        "the name of a log, such as 'val_loss', or 'NAME:max' or 'NAME:min' for one whose direction isn't known"
    )
    beside: tuple[str, ...] = ("monitor_mode",)

    def write(self, message: Any, field: str, value: Any) -> None:
        log, colon, mode = value.rpartition(":")
        if colon and mode in ("min", "max"):
            message.monitor_mode, value = mode, log
        setattr(message, field, value)


@dataclass(frozen=True)
class Group(Kind):
    """An object with several options (see `arguments.Several`)."""


@dataclass(frozen=True)
class Number(Kind):
    """A number of Python or NumPy, at least `least` and below `limit`."""

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
class ShareOrName(Kind):
    """A share of the rows, or the name of a part of a split."""

    expects: str = "a share from 0 to 1 (exclusive), or a name"

    def encode(self, name: str, value: Any) -> Any:
        return value if isinstance(value, str) else SHARE.encode(name, value)

    def write(self, message: Any, field: str, value: Any) -> None:
        if isinstance(value, str):
            message.view.validation = value
        else:
            setattr(message, field, value)


@dataclass(frozen=True)
class Whole(Number):
    """A whole number, also as a float. `limit` is that of the field of the message."""

    limit: float = 2**31

    def _representable(self, value: Any) -> bool:
        return bool(value == int(value))

    def _converted(self, value: Any) -> Any:
        return int(value)


@dataclass(frozen=True)
class Size(Whole):
    """A number of bytes. The command line also accepts units, such as 2G."""

    expects: str = "a whole number from 1"
    least: float = 1
    limit: float = 2**63


@dataclass(frozen=True)
class Words(Kind):
    """One of several words. `words` has the value in the message for each."""

    words: Mapping[str, Any] = field(default_factory=dict)

    def encode(self, name: str, value: Any) -> Any:
        if not isinstance(value, str) or value not in self.words:
            raise InvalidArgument(f"{name}: got {value!r}, expected {self.expects}")
        return self.words[value]

    def valid(self, value: Any) -> bool:
        return value in self.words

    def read(self, message: Any, field: str) -> Any:
        """Returns the word; an unknown value is returned unchanged, and refused by `valid`."""
        value = super().read(message, field)
        return {held: word for word, held in self.words.items()}.get(value, value)


@dataclass(frozen=True)
class Publication(Kind):
    """Whether a run publishes its result, and which weights; sets two fields of the message."""

    expects: str = "True, False or 'best'"
    beside: tuple[str, ...] = ("publish_choice",)

    def encode(self, name: str, value: Any) -> Any:
        if not isinstance(value, (bool, str)) or value not in (True, False, "best"):
            raise InvalidArgument(f"{name}: got {value!r}, expected {self.expects}")
        return value

    def write(self, message: Any, field: str, value: Any) -> None:
        chosen = training_pb2.PUBLISH_CHOICE_BEST if value == "best" else training_pb2.PUBLISH_CHOICE_LAST
        message.publish = bool(value)
        message.publish_choice = chosen if value else training_pb2.PUBLISH_CHOICE_UNSPECIFIED

    def read(self, message: Any, field: str) -> Any:
        """Returns None, False or "best"."""
        if message.HasField("publish") and not message.publish:
            return False
        return "best" if message.publish_choice == training_pb2.PUBLISH_CHOICE_BEST else None


@dataclass(frozen=True)
class Patterns(Kind):
    """A pattern, or a list of patterns."""

    expects: str = "patterns"

    def encode(self, name: str, value: Any) -> Any:
        return [value] if isinstance(value, str) else list(value or ())

    def write(self, message: Any, field: str, value: Any) -> None:
        getattr(message, field).extend(value)

    def read(self, message: Any, field: str) -> Any:
        return tuple(getattr(message, field)) or None


@dataclass(frozen=True)
class Json(Kind):
    """A value encoded as JSON text. `read` returns the text."""

    #: Returns the text for a value of an option of this name. Raises InvalidArgument.
    text: Callable[[str, Any], str] = lambda name, value: json.dumps(value)

    def encode(self, name: str, value: Any) -> Any:
        return None if value is None else self.text(name, value)


@dataclass(frozen=True)
class Setting(Json):
    """An argument of Keras's `compile`: a name, a serialized object, one with `get_config()`, a list or a dict."""

    expects: str = "what Keras's compile takes"
    text: Callable[[str, Any], str] = lambda name, value: json.dumps(plain(name, value))


@dataclass(frozen=True)
class Settings(Setting):
    """Like `Setting`, usually a list of several."""


@dataclass(frozen=True)
class Weights(Setting):
    """A list or dict of numbers."""

    expects: str = "a list or dict of numbers"


@dataclass(frozen=True)
class Callbacks(Json):
    """A callback or a list of callbacks: Keras's, names or {"class_name", "config"}."""

    expects: str = "Keras's callbacks, names or {'class_name', 'config'}"
    text: Callable[[str, Any], str] = lambda name, value: callbacks_json(value)


#: Maximum number of splits, and maximum length of their names, in characters.
MAX_SPLITS, MAX_SPLIT_NAME = 100, 100
#: By how much shares may exceed 1 together, as 0.7 + 0.2 + 0.1 does.
SHARE_ERROR = 1e-9


def splits_problem(splits: Mapping[Any, Any]) -> str:
    """Returns what is wrong with shares by name; empty if nothing is."""
    if not 0 < len(splits) <= MAX_SPLITS:
        return f"{len(splits)} splits"
    for name, share in splits.items():
        if not isinstance(name, str) or not 0 < len(name) <= MAX_SPLIT_NAME:
            return f"the name {str(name)[:MAX_SPLIT_NAME]!r}"
        number = isinstance(share, (int, float, np.integer, np.floating)) and not isinstance(share, bool)
        if not number or not 0 < share <= 1:
            return f"{str(share)[:20]} for {name!r}"
    total = sum(map(float, splits.values()))
    return f"shares of {total:g} together" if total > 1 + SHARE_ERROR else ""


def _splits_json(name: str, splits: Any) -> str:
    if not isinstance(splits, Mapping) or (problem := splits_problem(splits)):
        got = problem if isinstance(splits, Mapping) else repr(splits)
        raise InvalidArgument(f"{name}: got {got}, expected {SPLITS.expects}")
    return json.dumps({key: float(share) for key, share in splits.items()})


def whole(least: int, bits: int = 32) -> Whole:
    """Returns the kind of whole numbers from `least` that a signed field of this many bits can represent."""
    return Whole("a whole number" + (f" from {least}" if least >= 0 else ""), least=least, limit=2 ** (bits - 1))


def words(held: Mapping[str, Any]) -> Words:
    """Returns the kind of these words, given with their values in the message."""
    quoted = [repr(word) for word in held]
    return Words(" or ".join(quoted) if len(quoted) < 3 else f"one of {', '.join(quoted)}", words=held)


SECONDS = Number("seconds from 0")
SHARE = Number("a share from 0 to 1 (exclusive)", limit=1)
LORA = Json("a rank, or a dict of rank, alpha, layers and keep", text=lambda name, value: lora_json(value))
CLASS_WEIGHT = Json("a dict of class index to number", text=lambda name, value: class_weight_json(value))
SPLITS = Json("a dict of name to share, together at most 1", text=_splits_json)
