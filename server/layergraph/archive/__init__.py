"""Reads the config and stored arrays of a model file. All input is untrusted."""

from layergraph.archive.archive import ModelArchive, open_archive
from layergraph.archive.hdf5 import LegacyWeights, StateTree, StoredArray
from layergraph.archive.limits import DEFAULT_LIMITS, LoadLimits
from layergraph.archive.shards import ShardArray, ShardedWeights

__all__ = [
    "DEFAULT_LIMITS",
    "LegacyWeights",
    "LoadLimits",
    "ModelArchive",
    "ShardArray",
    "ShardedWeights",
    "StateTree",
    "StoredArray",
    "open_archive",
]
