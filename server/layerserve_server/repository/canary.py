"""Canaries: versions that answer a share of a model's callers when these name no version, always the same callers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b

_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%")
#: Number of different hashes of keys.
_HASHES = 1 << 64


def read_share(text: str) -> float:
    """Returns a share such as "5%" as a number from 0 to 1. Raises ValueError if it isn't one."""
    found = _PERCENT.fullmatch(text)
    if found is None or float(found[1]) > 100:
        raise ValueError("a share from '0%' to '100%'")
    return float(found[1]) / 100


@dataclass(frozen=True, slots=True)
class Canary:
    """The version, and its share of callers."""

    model: str
    version: int
    share: float

    def takes(self, key: str) -> bool:
        """Whether it answers the caller with this key.

        The hash of a key is the same in all processes and differs between models. A caller that it answers stays when
        the share grows, and one that it doesn't answer when the share shrinks.
        """
        digest = blake2b(f"{self.model}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.share * _HASHES
