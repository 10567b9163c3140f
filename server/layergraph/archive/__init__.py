"""Reads the config and stored arrays of a model file. All input is untrusted."""

from layergraph.archive.archive import open_archive
from layergraph.archive.hdf5 import LegacyWeights, StateTree, StoredArray
from layergraph.archive.limits import DEFAULT_LIMITS, LoadLimits
from layergraph.archive.model_archive import ModelArchive
from layergraph.archive.saved_model.bundle import BundleArray
from layergraph.archive.saved_model.weights import TrackedWeights
from layergraph.archive.shards import ShardArray, ShardedWeights

__all__ = [
    "DEFAULT_LIMITS",
    "BundleArray",
    "LegacyWeights",
    "LoadLimits",
    "ModelArchive",
    "ShardArray",
    "ShardedWeights",
    "StateTree",
    "StoredArray",
    "TrackedWeights",
    "open_archive",
]
