"""Keys of artifacts: digests of what they depend on, such as the model, the machine and the installed packages."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layergraph import Model

_CPU_INFO = Path("/proc/cpuinfo")
#: Lines about a processor that engines' code and speed depend on.
_CPU_LINES = ("model name", "flags", "Features", "CPU part")


def digest_of(*facts: Any) -> str:
    """Returns a digest of values that `repr` describes."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def model_digest(model: Model) -> str:
    """Returns a digest of a model's config and weights."""
    import torch

    digest = hashlib.sha256(json.dumps(model.get_config(), sort_keys=True, default=str).encode())
    for layer in model.walk_layers():
        for weight in layer.own_weights:
            value = weight.value.detach().cpu().contiguous()
            digest.update(repr((weight.name, value.dtype, tuple(value.shape))).encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def installed(packages: Sequence[str]) -> list[str | None]:
    """Returns the versions of these packages; None for one that isn't installed."""
    return [_installed(package) for package in packages]


@cache
def _installed(package: str) -> str | None:
    # Cached, as finding it takes longer than the digest of a small model.
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def machine() -> tuple[str, ...]:
    """Returns what is known of the processor, and how many there are."""
    try:
        lines = {line for line in _CPU_INFO.read_text().splitlines() if line.startswith(_CPU_LINES)}
    except OSError:
        lines = set()
    return (platform.machine(), str(os.cpu_count()), *sorted(lines))
