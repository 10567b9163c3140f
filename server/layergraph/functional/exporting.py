"""Whether calls are recorded for a file that other software runs.

Such a file has to be right for every length of an open axis, so loops over timesteps are recorded as loops.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_exporting: ContextVar[bool] = ContextVar("exporting", default=False)


def is_recorded_for_file() -> bool:
    """Whether calls are recorded for a file now, by torch's tracer or by torch.export."""
    return _exporting.get() and (torch._C._is_tracing() or torch.compiler.is_exporting())


def has_any(wrong: torch.Tensor) -> bool:
    """Whether any element is true, for conditions on data under which a layer raises an error.

    False where there are no values: on `meta`, and in an export, whose file can't raise the error.
    """
    return not (wrong.is_meta or _exporting.get()) and bool(wrong.any())


@contextmanager
def exporting() -> Iterator[None]:
    """Calls in the block are recorded for a file."""
    token = _exporting.set(True)
    try:
        yield
    finally:
        _exporting.reset(token)
