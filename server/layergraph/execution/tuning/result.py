"""The result of tuning: an engine for each row count."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from layergraph.execution.engines.engine import Engine

#: Lengths of the open axes of all inputs.
Lengths: TypeAlias = "tuple[tuple[int, ...], ...]"


@dataclass(frozen=True)
class Tuned:
    """An engine whose outputs equal eager torch's.

    exact     whether its numbers must equal eager torch's; for a lower precision, only shapes and dtypes must
    finite    whether that holds for finite inputs only; it must get no others then
    lengths   for each combination of lengths so far, whether its outputs agreed with eager torch's
    """

    name: str
    run: Engine
    exact: bool = True
    finite: bool = True
    lengths: dict[Lengths, bool] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Choice:
    """The engine for about `rows` rows.

    engine         its name
    milliseconds   duration of a call (lower quartile) with each engine that was timed
    tuned          the engine itself; None for eager torch
    difference     largest difference from the expected outputs, for an engine of lower precision; else 0
    """

    rows: int
    engine: str
    milliseconds: Mapping[str, float]
    tuned: Tuned | None = field(default=None, repr=False)
    difference: float = 0.0


def choices_to_json(choices: Iterable[Choice]) -> list[dict[str, Any]]:
    """Returns choices as values for JSON, without their engines."""
    return [{"rows": c.rows, "engine": c.engine, "milliseconds": dict(c.milliseconds)} for c in choices]


def choices_from_json(saved: Any) -> tuple[Choice, ...]:
    """Returns the choices of `choices_to_json`. Raises ValueError, LookupError or TypeError if they are damaged."""
    return tuple(Choice(int(one["rows"]), str(one["engine"]), dict(one["milliseconds"])) for one in saved)


@dataclass(frozen=True)
class Tuning:
    """A choice for each timed row count, for each dropped engine the reason, and whether time was too short for any."""

    choices: tuple[Choice, ...]
    dropped: Mapping[str, str]
    late: bool = False
    #: Cache of `for_rows`.
    found: dict[int, Tuned | None] = field(default_factory=dict, repr=False, compare=False)

    def for_rows(self, rows: int) -> Tuned | None:
        """The engine of the nearest row count, by ratio; None for eager torch."""
        if rows not in self.found:
            nearest = min(self.choices, key=lambda choice: abs(math.log(max(rows, 1) / choice.rows)), default=None)
            self.found[rows] = nearest.tuned if nearest else None
        return self.found[rows]
