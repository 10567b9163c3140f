"""Reads the config and the stored arrays of a model file. All input is untrusted.

Way in: `open_archive`, which detects the format by signature and finds what lies beside the file (`finding`). Each
container has a file: `keras_zip`, `hdf5`, `json_and_weights`, `preset`, `saved_model/`, `imported/`. `limits` bounds
what is read. Way out: a `ModelArchive`, with the config as parsed JSON and arrays that aren't read yet (`weights`).
All files are written through `replacing`.
"""

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
