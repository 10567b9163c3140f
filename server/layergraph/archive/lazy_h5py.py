"""h5py, imported on first use: a server whose model files are imported by another process never loads HDF5."""

from __future__ import annotations

import os
from typing import Any


def __getattr__(name: str) -> Any:
    # HDF5 searches folders for filter plugins and loads them, unless this is set before it starts.
    os.environ.setdefault("HDF5_PLUGIN_PRELOAD", "::")
    import h5py

    found = globals()[name] = getattr(h5py, name)
    return found
