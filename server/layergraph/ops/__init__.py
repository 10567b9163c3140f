"""Operations as nodes: what Keras writes for masks, for arithmetic on tensors, and for keras.ops."""

from __future__ import annotations

from collections.abc import Mapping

from layergraph.functional.layer import Layer


def operations() -> Mapping[str, type[Layer]]:
    """The closed table of operations."""
    # Imported when first used: a fifth of the time of `import layergraph`, and many models have none.
    from layergraph.ops.table import OPERATIONS

    return OPERATIONS
