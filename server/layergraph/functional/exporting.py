"""Whether calls are recorded for a file that other software runs.

Such a file has to be right for every length of an open axis, so loops over timesteps are recorded as loops.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_exporting: ContextVar[bool] = ContextVar("exporting", default=False)


def is_exporting() -> bool:
    """Whether calls are recorded for a file now, by torch's tracer or by torch.export."""
    return _exporting.get() and (torch.jit.is_tracing() or torch.compiler.is_exporting())


@contextmanager
def exporting() -> Iterator[None]:
    """Calls in the block are recorded for a file."""
    token = _exporting.set(True)
    try:
        yield
    finally:
        _exporting.reset(token)
