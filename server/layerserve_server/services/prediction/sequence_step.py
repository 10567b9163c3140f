"""A request that is a step of a sequence."""

from __future__ import annotations

from dataclasses import dataclass

#: Maximum length of the id of a sequence that is a text, in characters.
MAX_ID = 256


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """Which sequence a request belongs to. A number and a text are different ids."""

    #: Empty for the sequence of the stream on which the request came.
    id: int | str
    start: bool = False
    end: bool = False
