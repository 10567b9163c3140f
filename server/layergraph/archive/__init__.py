"""Reads the config and stored arrays of a model file. All input is untrusted."""

from layergraph.archive.archive import open_archive
from layergraph.archive.limits import DEFAULT_LIMITS, LoadLimits
from layergraph.archive.model_archive import ModelArchive
from layergraph.archive.weights import ArrayList, ArraysByLayer, StateTree, StoredArray

__all__ = [
    "DEFAULT_LIMITS",
    "ArrayList",
    "ArraysByLayer",
    "LoadLimits",
    "ModelArchive",
    "StateTree",
    "StoredArray",
    "open_archive",
]
