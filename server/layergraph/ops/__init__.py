"""Operations: nodes for masks, arithmetic on tensors, and keras.ops.

Way in: `layergraph.ops.matmul(a, b)` and the like, functions with Keras's names for symbolic tensors and torch tensors
(`functions`), or the closed `table` of names that files may have. Read `operation` first, with the base classes; an
operation is a layer without weights. `tensorflow/` has what only files of tf.keras have.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layergraph.functional.layer import Layer


def operations() -> Mapping[str, type[Layer]]:
    """The table of all operations, by name."""
    # Imported on first use: it takes a fifth of the time of `import layergraph`, and many models use none.
    from layergraph.ops.table import OPERATIONS

    return OPERATIONS


#: Keras's modules of operations, all of which are here.
_MODULES = ("image", "linalg", "nn", "numpy")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return sys.modules[__name__]
    # The table of functions imports this folder's modules, whose names are looked up here before they exist.
    if not name.startswith("_") and not Path(__file__).with_name(f"{name}.py").exists():
        from layergraph.ops.functions import FUNCTIONS

        if name in FUNCTIONS:
            return FUNCTIONS[name]
    raise AttributeError(f"module 'layergraph.ops' has no attribute '{name}'")
