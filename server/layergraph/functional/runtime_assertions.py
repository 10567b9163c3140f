"""Runtime assertions: conditions on the values of a layer's inputs, such as ids within a table.

In execution a layer raises an error if an assertion fails. While a graph is traced for another engine there are no
values: assertions are recorded instead, and become outputs of the graph that the engine's caller checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_recorded: ContextVar[list[torch.Tensor] | None] = ContextVar("recorded", default=None)


def is_recording() -> bool:
    """Whether a graph is being traced, so that assertions are recorded rather than checked."""
    return _recorded.get() is not None


def record(holds: torch.Tensor) -> None:
    """Records the assertion that all elements of `holds` are true."""
    recorded = _recorded.get()
    assert recorded is not None
    recorded.append(holds.all())


@contextmanager
def recording() -> Iterator[list[torch.Tensor]]:
    """Collects the assertions recorded in the block, as boolean scalars."""
    recorded: list[torch.Tensor] = []
    token = _recorded.set(recorded)
    try:
        yield recorded
    finally:
        _recorded.reset(token)
