"""Imports h5py such that HDF5 loads no plugins."""

from __future__ import annotations

import os

# HDF5 searches folders for filter plugins and loads them, unless this is set before it starts.
os.environ.setdefault("HDF5_PLUGIN_PRELOAD", "::")

import h5py

__all__ = ["h5py"]
