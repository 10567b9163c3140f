"""Quantization of kernels, as in Keras 3's dtype policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Mode -> Keras's class of its policies; int4 has two.
_CLASSES = {
    "int8": "QuantizedDTypePolicy",
    "int4": "Int4DTypePolicy",
    "float8": "QuantizedFloat8DTypePolicy",
    "gptq": "GPTQDTypePolicy",
    "awq": "AWQDTypePolicy",
}
#: These classes, for which the config names the mode.
QUANTIZED_POLICIES = frozenset(_CLASSES.values())
_BITS = {"int8": (8,), "int4": (4,), "float8": (8,), "gptq": (2, 3, 4, 8), "awq": (4,)}


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a kernel is quantized.

    mode                  int8, int4, float8, gptq or awq
    bits                  number of bits of one value
    block                 number of consecutive inputs that share a scale and a zero point; None if all share them
    amax_history_length   number of maxima in the history of float8
    """

    mode: str
    bits: int = 8
    block: int | None = None
    amax_history_length: int = 1024

    @property
    def text(self) -> str:
        """The mode in Keras's spelling: `int8`, `int4/128`, `gptq/4/128`."""
        block = -1 if self.block is None else self.block
        if self.mode in ("gptq", "awq"):
            return f"{self.mode}/{self.bits}/{block}"
        return f"{self.mode}/{block}" if self.mode == "int4" else self.mode

    def serialized(self, source: str) -> dict[str, Any]:
        """Returns Keras's object for the policy that quantizes a layer of policy `source`."""
        config: dict[str, Any] = {"mode": self.text, "source_name": source}
        if self.mode == "float8":
            config["amax_history_length"] = self.amax_history_length
        return {"class_name": _CLASSES[self.mode], "config": config}


def quantization(value: Any) -> tuple[Quantization, str] | None:
    """Parses a policy's name (`int8_from_float32`) or Keras's object to quantization and unquantized policy.

    None if `value` is neither.
    """
    length: Any = 1024
    if isinstance(value, Mapping):
        config = value.get("config")
        if value.get("class_name") not in QUANTIZED_POLICIES or not isinstance(config, Mapping):
            return None
        mode, source = config.get("mode"), config.get("source_name") or "float32"
        length = config.get("amax_history_length", length)
    elif isinstance(value, str) and "_from_" in value:
        mode, _, source = value.partition("_from_")
    else:
        return None
    if not isinstance(mode, str) or not isinstance(source, str) or type(length) is not int or not 0 < length < 2**20:
        return None
    found = _parsed(mode, length)
    return None if found is None else (found, source)


def _parsed(text: str, length: int) -> Quantization | None:
    mode, *numbers = text.split("/")
    if mode not in _BITS or len(numbers) > 2 or not all(number.removeprefix("-").isdecimal() for number in numbers):
        return None
    sizes = [int(number) for number in numbers if len(number) < 10]
    if len(sizes) != {"int4": len(numbers) and 1, "gptq": 2, "awq": 2}.get(mode, 0):
        return None
    bits, block = sizes if len(sizes) == 2 else (_BITS[mode][0], sizes[0] if sizes else -1)
    if bits not in _BITS[mode] or block < -1 or block == 0:
        return None
    return Quantization(mode, bits, None if block == -1 else block, length)


def policy_of(value: Any, name: str) -> Any:
    """Returns the policy of a layer of this name from Keras's map of policies; other policies unchanged."""
    config = value.get("config") if isinstance(value, Mapping) and value.get("class_name") == "DTypePolicyMap" else None
    if not isinstance(config, Mapping):
        return value
    parts = config.get("policy_map")
    found = [part for path, part in parts.items() if path.rpartition("/")[2] == name] if isinstance(parts, dict) else []
    return found[0] if found else config.get("default_policy")
