"""The slices of the client: folders that hold all there is about one subject.

A slice has `api`, its attribute of the client. It may have `commands`, what it adds to the command line, and `fake`,
its part of the fake server. To take one away, delete its folder, its tests and its line here; then run `make client`.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

#: Attributes of the client, which are also the names of the folders.
SLICES = (
    "checkpoints",
    "datasets",
    "estimates",
    "online",
    "sweeps",
)


def modules(name: str) -> Iterator[tuple[str, ModuleType]]:
    """Yields the modules of this name, such as "commands", by slice. They are imported now."""
    for part in SLICES:
        if find_spec(f"layerserve.{part}.{name}") is not None:
            yield part, import_module(f"layerserve.{part}.{name}")
