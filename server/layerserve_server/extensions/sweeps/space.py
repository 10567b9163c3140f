"""The search space of a sweep: which settings differ between trials, and the request of a trial."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from layergraph.errors import unknown_name
from layerserve import errors as client_errors
from layerserve.training.options.contract import COMPILE, RUN
from layerserve.training.options.kinds import Flag, Number, Patterns, Setting, Words
from layerserve.training.options.option import Option

from layerserve_server.errors import InvalidRequestError
from layerserve_server.training.request import RunRequest

#: Maximum number of dimensions, of values of a dimension, of combinations of a grid, and of trials.
MAX_DIMENSIONS = 50
MAX_VALUES = 1000
MAX_TRIALS = 10_000
#: Maximum number of steps of a range of which trials draw a value: floats can't tell more of them apart.
MAX_STEPS = 2**53
#: Maximum length of a dimension's name, in characters.
MAX_NAME = 200
#: Options of RunOptions that aren't settings of the training itself, or that all trials must share to be comparable.
_SHARED = {
    *("publish", "publish_label", "publish_if_improved", "monitor", "monitor_mode", "format", "priority", "workers"),
    *("checkpoint_seconds", "description", "validation_split", "on_nan"),
    *("expected_base_version", "on_conflict", "idempotency_key", "metadata"),
}
#: Kinds of options that can differ between trials.
_KINDS = (Number, Flag, Patterns, Words, Setting)

#: Settings of a trial, by the name of the dimension.
Settings: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Dimension:
    """A setting that differs between trials: one of `values`, or a number from `low` to `high`, both included.

    `step` is the distance of the numbers, or 0 for any. With `log` they are drawn by their logarithm.
    """

    name: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float = 0.0
    log: bool = False
    integer: bool = False

    @property
    def grid_size(self) -> int:
        """Number of all values; 0 if it is a range without a step."""
        if self.values:
            return len(self.values)
        # Half a millionth of a step more: (0.3 - 0.1) / 0.1 is below 2.
        return int((self.high - self.low) / self._step + 5e-7) + 1 if self._step else 0

    def at(self, index: int) -> Any:
        """Returns the value at an index below `grid_size`."""
        if self.values:
            return self.values[index]
        # 3 * 0.1 is above 0.3.
        number = min(self.low + index * self._step, self.high)
        return round(number) if self.integer else number

    @property
    def _step(self) -> float:
        return self.step or (1.0 if self.integer and not self.log else 0.0)

    @property
    def examples(self) -> tuple[Any, ...]:
        """The values, or the two ends of the range."""
        return self.values or tuple(round(end) if self.integer else end for end in (self.low, self.high))


def check_space(dimensions: Sequence[Dimension], base: RunRequest, *, grid: bool) -> None:
    """Raises InvalidRequestError if a dimension can't be searched, or a value isn't valid for its setting."""
    if not 0 < len(dimensions) <= MAX_DIMENSIONS:
        raise InvalidRequestError(f"dimensions: got {len(dimensions)}, expected 1 to {MAX_DIMENSIONS}")
    names = [dimension.name for dimension in dimensions]
    for index, dimension in enumerate(dimensions):
        if len(dimension.name) > MAX_NAME:
            raise InvalidRequestError(f"dimension {index}: got a name of {len(dimension.name)} characters")
        for other in names[:index]:
            if (
                other == dimension.name
                or f"{dimension.name}.".startswith(f"{other}.")
                or other.startswith(f"{dimension.name}.")
            ):
                raise InvalidRequestError(f"dimension '{dimension.name}': sets the same setting as '{other}'")
        _check_values(dimension, grid=grid)
        for value in dimension.examples:
            with_settings(base, {dimension.name: value})
    if grid and (count := combinations(dimensions)) > MAX_TRIALS:
        raise InvalidRequestError(f"dimensions: got a grid of {count} combinations, expected at most {MAX_TRIALS}")


def combinations(dimensions: Sequence[Dimension]) -> int:
    """Returns the number of combinations of a grid."""
    return math.prod(dimension.grid_size for dimension in dimensions)


def _check_values(dimension: Dimension, *, grid: bool) -> None:
    label = f"dimension '{dimension.name}'"
    if dimension.values:
        if len(dimension.values) > MAX_VALUES:
            raise InvalidRequestError(f"{label}: got {len(dimension.values)} values, expected at most {MAX_VALUES}")
        return
    numbers = (dimension.low, dimension.high, dimension.step)
    if not all(map(math.isfinite, numbers)) or not dimension.low <= dimension.high or dimension.step < 0:
        raise InvalidRequestError(
            f"{label}: got a range from {dimension.low:g} to {dimension.high:g} with step {dimension.step:g}, expected "
            "finite numbers, low up to high, and a positive step or none"
        )
    if dimension.step and not (dimension.high - dimension.low) / dimension.step <= MAX_STEPS:
        raise InvalidRequestError(f"{label}: got a step of {dimension.step:g}, which is too small for the range")
    if dimension.log and (dimension.low <= 0 or dimension.step):
        raise InvalidRequestError(f"{label}: got a logarithmic range, expected a low above 0, and no step")
    if dimension.integer and any(number != int(number) for number in numbers):
        raise InvalidRequestError(f"{label}: got a range of integers with numbers that aren't whole")
    if abs(dimension.high) > 2**53 or abs(dimension.low) > 2**53:
        raise InvalidRequestError(f"{label}: got numbers above 2**53")
    if grid and not 0 < dimension.grid_size <= MAX_TRIALS:
        raise InvalidRequestError(
            f"{label}: got a range without a step, or with too many, expected values or at most {MAX_TRIALS} steps, "
            "since a grid has all combinations"
        )


def with_settings(base: RunRequest, settings: Settings) -> RunRequest:
    """Returns the request of a trial.

    Raises InvalidRequestError if a setting isn't known or can't differ between trials, or its value is invalid.
    """
    request = base
    for name, value in settings.items():
        top, _, path = name.partition(".")
        option, compiles = _option(top, name)
        if path:
            if not compiles:
                raise InvalidRequestError(f"dimension '{name}': '{top}' has no parts")
            # Of the request so far: an earlier dimension may have set another part.
            value = _with_part(request.compile.get(top), path, value, name)
        value = _converted(option, value, name)
        changes = {"compile": {**request.compile, top: value}} if compiles else {top: value}
        request = replace(request, **changes)
    return request


def _option(top: str, name: str) -> tuple[Option, bool]:
    """Returns the option of a dimension, and whether it is an argument of compile."""
    for options, compiles in ((RUN, False), (COMPILE, True)):
        for option in options:
            if option.name == top:
                if top in _SHARED or not isinstance(option.kind, _KINDS):
                    raise InvalidRequestError(f"dimension '{name}': '{top}' can't differ between trials")
                return option, compiles
    known = [option.name for option in (*RUN, *COMPILE) if option.name not in _SHARED]
    raise InvalidRequestError(unknown_name("dimension", name, known))


def _converted(option: Option, value: Any, name: str) -> Any:
    """Returns a value in the form that a request has it. Raises InvalidRequestError if it is invalid."""
    if isinstance(option.kind, Flag) and not isinstance(value, bool):
        raise InvalidRequestError(f"dimension '{name}': got {_shown(value)}, expected true or false")
    if isinstance(option.kind, Patterns):
        patterns = [value] if isinstance(value, str) else value
        if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
            raise InvalidRequestError(f"dimension '{name}': got {_shown(value)}, expected a pattern or a list of them")
        return tuple(patterns)
    try:
        encoded = option.kind.encode(f"dimension '{name}'", value)
    except (client_errors.InvalidArgument, OverflowError, ValueError) as error:
        raise InvalidRequestError(str(error)) from error
    return encoded if isinstance(option.kind, Number) else value


def _with_part(held: Any, path: str, value: Any, name: str) -> Any:
    """Returns a copy of a compile argument with a part set. The name of a Keras object becomes an object."""
    top = name.partition(".")[0]
    if held is None:
        raise InvalidRequestError(
            f"dimension '{name}': requires `{top}`, which the request doesn't set; set it, also where the model file "
            "has one"
        )
    if isinstance(held, str):
        held = {"class_name": held, "config": {}}
    key, _, rest = path.partition(".")
    if isinstance(held, dict):
        if "class_name" in held:
            config = held.get("config") or {}
            return {**held, "config": {**config, key: _deeper(config.get(key), rest, value, name)}}
        return {**held, key: _deeper(held.get(key), rest, value, name)}
    if isinstance(held, list) and key.isdecimal() and int(key) < len(held):
        index = int(key)
        return [*held[:index], _deeper(held[index], rest, value, name), *held[index + 1 :]]
    raise InvalidRequestError(f"dimension '{name}': '{key}' is no part of {_shown(held)}")


def _deeper(held: Any, rest: str, value: Any, name: str) -> Any:
    return _with_part(held, rest, value, name) if rest else value


def _shown(value: Any) -> str:
    return json.dumps(value)[:80]


def shown_settings(settings: Settings) -> dict[str, str]:
    """Returns the values of settings as JSON."""
    return {name: json.dumps(value) for name, value in settings.items()}
