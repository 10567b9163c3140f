"""The descriptors of all protocols: the contract, other protocols of the server, and those of its extensions."""

from __future__ import annotations

import importlib
from pathlib import Path

import layerserve.v1
import layerserve_server
from google.protobuf.descriptor import FileDescriptor


def described_files() -> list[FileDescriptor]:
    """Imports every stub and returns its descriptor."""
    found = []
    for package in (layerserve.v1, layerserve_server):
        (folder,) = package.__path__
        for path in sorted(Path(folder).rglob("*_pb2.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found.append(importlib.import_module(".".join([package.__name__, *parts])).DESCRIPTOR)
    return found
