"""What tuning chose: which engine for how many rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from layergraph.execution.engines.exported_graph import Engine

#: Lengths of the inputs' open axes.
Lengths: TypeAlias = "tuple[tuple[int, ...], ...]"


@dataclass(frozen=True)
class Tuned:
    """An engine that has shown eager torch's numbers.

    exact     whether it is held to eager torch's numbers; an engine of less precision is held to its shapes
    finite    whether it is held to them for finite inputs alone, and must get no others
    lengths   whether it gave what eager torch gives, for lengths that have come so far
    """

    name: str
    run: Engine
    exact: bool = True
    finite: bool = True
    lengths: dict[Lengths, bool] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Choice:
    """What is used for about `rows` rows.

    engine         its name
    milliseconds   the time of a call (the lower quartile) with each engine that was timed
    tuned          the engine itself; None for eager torch
    difference     the largest difference to the proof's outputs, for an engine of less precision; else 0
    """

    rows: int
    engine: str
    milliseconds: Mapping[str, float]
    tuned: Tuned | None = field(default=None, repr=False)
    difference: float = 0.0


@dataclass(frozen=True)
class Tuning:
    """A choice for each row count that was timed, and why engines were dropped."""

    choices: tuple[Choice, ...]
    dropped: Mapping[str, str]
    #: What `for_rows` found, so that it is found once.
    found: dict[int, Tuned | None] = field(default_factory=dict, repr=False, compare=False)

    def for_rows(self, rows: int) -> Tuned | None:
        """The engine of the row count that is nearest, by ratio; None is eager torch."""
        if rows not in self.found:
            nearest = min(self.choices, key=lambda choice: abs(math.log(max(rows, 1) / choice.rows)), default=None)
            self.found[rows] = nearest.tuned if nearest else None
        return self.found[rows]
