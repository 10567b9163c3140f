"""Names that Keras would give: `dense`, `dense_1`, ..."""

from __future__ import annotations

import threading
from collections import Counter

from layergraph.config.names import snake_case

_counts: Counter[str] = Counter()
_lock = threading.Lock()


def default_name(class_name: str) -> str:
    """The next free default name of a class, counted in this process as Keras counts."""
    base = snake_case(class_name)
    with _lock:
        count = _counts[base]
        _counts[base] += 1
    return f"{base}_{count}" if count else base


def clear_session() -> None:
    """Starts the numbering of default names anew (keras.utils.clear_session)."""
    with _lock:
        _counts.clear()
