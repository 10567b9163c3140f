"""Default names of layers, as in Keras: `dense`, `dense_1`, ..."""

from __future__ import annotations

import threading
from collections import Counter

from layergraph.config.names import snake_case

_counts: Counter[str] = Counter()
_lock = threading.Lock()


def default_name(class_name: str) -> str:
    """Returns the next free default name of a class, counted per process as in Keras."""
    base = snake_case(class_name)
    with _lock:
        count = _counts[base]
        _counts[base] += 1
    return f"{base}_{count}" if count else base


def clear_session() -> None:
    """Restarts the numbering of default names (keras.utils.clear_session)."""
    with _lock:
        _counts.clear()
