"""Demands: what a layer asks of the data that it is given, such as ids that have a vector.

A layer raises where a demand isn't met. While a graph is recorded for another engine there is no data to look at: then
demands are noted, and become outputs of the graph, so that whoever runs it can look at them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_noted: ContextVar[list[torch.Tensor] | None] = ContextVar("noted", default=None)


def recorded() -> bool:
    """Whether a graph is being recorded, so that demands are noted rather than looked at."""
    return _noted.get() is not None


def note(holds: torch.Tensor) -> None:
    """Demands that all of `holds` is true."""
    noted = _noted.get()
    assert noted is not None
    noted.append(holds.all())


@contextmanager
def recording() -> Iterator[list[torch.Tensor]]:
    """Collects demands, as boolean scalars."""
    noted: list[torch.Tensor] = []
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)
