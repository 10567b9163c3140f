"""h5py, imported so that HDF5 looks for no plugins."""

from __future__ import annotations

import os

# HDF5 searches folders for filter libraries and loads them, unless told not to before it starts.
os.environ.setdefault("HDF5_PLUGIN_PRELOAD", "::")

import h5py

__all__ = ["h5py"]
