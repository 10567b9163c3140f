"""Keras's dtype names and the torch dtypes for them; dtype policies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from layergraph.config.options import Expected
from layergraph.config.quantization import Quantization, quantization
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
#: Only between operations: no layer computes in complex dtypes, and no input has one.
_COMPLEX: Mapping[str, torch.dtype] = {"complex64": torch.complex64, "complex128": torch.complex128}
#: Characters of regular expressions that aren't supported in the paths of a policy map.
_PATTERN = re.compile(r"[\\^$*+?{}\[\]|()]")
_MAX_PARTS = 10_000
NAMES: Mapping[torch.dtype, str] = {torch_dtype: name for name, torch_dtype in {**DTYPES, **_COMPLEX}.items()}


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """x in at least float32, in which sums, quotients and statistics are precise enough."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def torch_dtype(name: str) -> torch.dtype:
    """Returns the torch dtype of a Keras dtype name. Raises DataError for 'string', for which torch has none."""
    found = DTYPES.get(name) or _COMPLEX.get(name)
    if found is None:
        raise DataError(f"dtype '{name}' is not supported in computation, expected one of {list(DTYPES)}")
    return found


def dtype_name(value: torch.dtype | np.dtype[Any] | str) -> str:
    """Returns Keras's name of a torch or NumPy dtype; names are returned unchanged."""
    if isinstance(value, str):
        return value
    if isinstance(value, torch.dtype):
        return NAMES[value]
    return value.name if value.kind not in "OSUT" else "string"


def dtype(value: Any) -> str:
    """Validator: the name of a dtype."""
    if isinstance(value, torch.dtype) and value in NAMES:
        return NAMES[value]
    if isinstance(value, str) and (value in DTYPES or value == "string"):
        return value
    if isinstance(value, (type, np.dtype)):
        try:
            return dtype(np.dtype(value).name)
        except TypeError:
            pass
    raise Expected("the name of a dtype such as 'float32'")


@dataclass(frozen=True, slots=True)
class DTypePolicy:
    """The dtypes in which a layer computes and stores its weights (keras.DTypePolicy).

    quantization   how the kernel is quantized, or None
    parts          for a policy map (keras.DTypePolicyMap): the policies of sublayers, by path
    """

    name: str
    compute_dtype: str
    variable_dtype: str
    quantization: Quantization | None = None
    parts: tuple[tuple[str, DTypePolicy], ...] = ()

    def at(self, path: str) -> DTypePolicy:
        """Returns the policy of the sublayer at `path`, such as `attention/query`, relative to the map's layer.

        `.*` in a pattern matches any text.
        """
        exact = [policy for known, policy in self.parts if f"/{known}".endswith(f"/{path}")]
        matching = [policy for known, policy in self.parts if ".*" in known and _matches(known.split(".*"), path)]
        return next(iter([*exact, *matching]), replace(self, parts=()))

    def serialized(self) -> str | dict[str, Any]:
        """Returns the policy's name, or Keras's serialised object if the name isn't enough."""
        if self.parts:
            parts = {path: policy.serialized() for path, policy in self.parts}
            return {"class_name": "DTypePolicyMap", "config": {"default_policy": self.name, "policy_map": parts}}
        return self.name if self.quantization is None else self.quantization.serialized(self.name.split("_from_")[1])


def dtype_policy(value: Any) -> DTypePolicy:
    """Validator: a policy, its name ('float32', 'mixed_bfloat16'), or its serialised form in Keras."""
    policy = any_dtype_policy(value)
    if policy.quantization is not None or policy.parts:
        raise Expected("a dtype policy without quantization such as 'float32' or 'mixed_bfloat16'")
    return policy


def any_dtype_policy(value: Any) -> DTypePolicy:
    """Validator: like `dtype_policy`, but also accepts quantized policies and maps of policies."""
    if isinstance(value, DTypePolicy):
        return value
    if value is None:
        value = "float32"
    found = quantization(value)
    if found is not None:
        source = dtype_policy(found[1])
        return replace(source, name=f"{found[0].text}_from_{source.name}", quantization=found[0])
    if isinstance(value, Mapping):
        config = value.get("config")
        if value.get("class_name") == "DTypePolicyMap" and isinstance(config, Mapping):
            return _policy_map(config)
        value = config.get("name") if isinstance(config, Mapping) else None
    if value in ("mixed_float16", "mixed_bfloat16"):
        return DTypePolicy(value, value.removeprefix("mixed_"), "float32")
    try:
        name = dtype(value)
    except Expected:
        raise Expected("a dtype policy such as 'float32' or 'mixed_bfloat16'") from None
    return DTypePolicy(name, name, name)


def _policy_map(config: Mapping[str, Any]) -> DTypePolicy:
    parts = config.get("policy_map")
    if not isinstance(parts, Mapping) or len(parts) > _MAX_PARTS:
        raise Expected(f"a map of at most {_MAX_PARTS} dtype policies")
    for path in parts:
        if not isinstance(path, str) or path.count(".*") > 2 or _PATTERN.search(path.replace(".*", "")):
            raise Expected("a map of dtype policies by path, with '.*' as the only pattern")
    default = dtype_policy(config.get("default_policy"))
    return replace(default, parts=tuple((path, any_dtype_policy(part)) for path, part in parts.items()))


def _matches(pieces: list[str], path: str) -> bool:
    """Whether `path` consists of the pieces in order, with any text between them."""
    at = len(pieces[0])
    if not path.startswith(pieces[0]):
        return False
    for piece in pieces[1:-1]:
        found = path.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return len(path) - at >= len(pieces[-1]) and path.endswith(pieces[-1])
