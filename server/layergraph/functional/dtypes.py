"""Names of element types, as Keras writes them, and torch's objects for them; dtype policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from layergraph.config.options import Expected
from layergraph.errors import DataError

DTYPES: Mapping[str, torch.dtype] = {
    "bool": torch.bool,
    "uint8": torch.uint8,
    "uint16": torch.uint16,
    "uint32": torch.uint32,
    "uint64": torch.uint64,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
#: Between operations alone: no layer computes in them, and no input has them.
_COMPLEX: Mapping[str, torch.dtype] = {"complex64": torch.complex64, "complex128": torch.complex128}
NAMES: Mapping[torch.dtype, str] = {torch_dtype: name for name, torch_dtype in {**DTYPES, **_COMPLEX}.items()}


def torch_dtype(name: str) -> torch.dtype:
    """torch's object for a Keras dtype name. Raises DataError for text, which torch has no type for."""
    found = DTYPES.get(name) or _COMPLEX.get(name)
    if found is None:
        raise DataError(f"element type '{name}' is not one to compute with, expected one of {list(DTYPES)}")
    return found


def dtype_name(value: torch.dtype | np.dtype[Any] | str) -> str:
    """Keras's name of a torch or NumPy dtype; a name is one already."""
    if isinstance(value, str):
        return value
    if isinstance(value, torch.dtype):
        return NAMES[value]
    return value.name if value.kind not in "OSUT" else "string"


def dtype(value: Any) -> str:
    """Validator: the name of an element type."""
    if isinstance(value, torch.dtype) and value in NAMES:
        return NAMES[value]
    if isinstance(value, str) and (value in DTYPES or value == "string"):
        return value
    if isinstance(value, (type, np.dtype)):
        try:
            return dtype(np.dtype(value).name)
        except TypeError:
            pass
    raise Expected("the name of an element type such as 'float32'")


@dataclass(frozen=True, slots=True)
class DTypePolicy:
    """In which types a layer computes and keeps its weights (keras.DTypePolicy)."""

    name: str
    compute_dtype: str
    variable_dtype: str


def dtype_policy(value: Any) -> DTypePolicy:
    """Validator: a policy, its name ('float32', 'mixed_bfloat16'), or Keras's serialised form of one."""
    if isinstance(value, DTypePolicy):
        return value
    if value is None:
        value = "float32"
    if isinstance(value, Mapping):
        config = value.get("config")
        value = config.get("name") if isinstance(config, Mapping) else None
    if value in ("mixed_float16", "mixed_bfloat16"):
        return DTypePolicy(value, value.removeprefix("mixed_"), "float32")
    try:
        name = dtype(value)
    except Expected:
        raise Expected("a dtype policy such as 'float32' or 'mixed_bfloat16'") from None
    return DTypePolicy(name, name, name)
