"""What computes arrays in place of eager torch. Modules that open kept engines need this, and no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"

#: torch, call by call: runs every plan, and is the reference for all other engines.
EAGER: Final = "eager"


class UnfitError(Exception):
    """An engine can't run a plan, or isn't installed; the message has the reason."""


class Engine(Protocol):
    """Executes a plan. Safe to call from several threads concurrently."""

    def __call__(self, arrays: Sequence[Array]) -> Sequence[Array]:
        """The outputs, then the runtime assertions, for arrays in the plan's order and of the inputs' dtypes."""
