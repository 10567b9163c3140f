"""Operations as nodes: what Keras writes for masks, for arithmetic on tensors, and for keras.ops.

`layergraph.ops.matmul(a, b)` and its like are functions by Keras's names, of symbolic tensors and of torch tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layergraph.functional.layer import Layer


def operations() -> Mapping[str, type[Layer]]:
    """The closed table of operations."""
    # Imported when first used: a fifth of the time of `import layergraph`, and many models have none.
    from layergraph.ops.table import OPERATIONS

    return OPERATIONS


def __getattr__(name: str) -> Any:
    # The table of functions needs the modules of this folder, which are asked for here before they are imported.
    if not name.startswith("_") and not Path(__file__).with_name(f"{name}.py").exists():
        from layergraph.ops.functions import FUNCTIONS

        if name in FUNCTIONS:
            return FUNCTIONS[name]
    raise AttributeError(f"module 'layergraph.ops' has no attribute '{name}'")
