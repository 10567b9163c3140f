"""The job that reads a model file, in a sandbox.

The server names the file and a folder; the child describes the file in the folder and sends {}. If the server then
sends {"arrays": [[number, order], ...]}, it writes them and replies {}. {"error": ...} is an error of the file,
{"system": ...} one of the system. See `layergraph.archive.imported`.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c  # noqa: F401
import h5py  # noqa: F401
from layergraph.archive import DEFAULT_LIMITS, open_archive
from layergraph.archive.finding import MODEL_SUFFIXES
from layergraph.archive.imported.form import error_fields
from layergraph.archive.imported.writing import describe, write_arrays
from layergraph.errors import CorruptFileError, ModelFileError

from layerserve_server.importing import sandbox
from layerserve_server.jobs.channel import Channel

# Of names in zip files. Python imports it for the first one.
codecs.lookup("cp437")


def read_model_file(arguments: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The job. `size` is that of the model's files, in bytes."""
    path, folder, size = Path(arguments["path"]), Path(arguments["folder"]), arguments["size"]
    # The description may be longer than the configs: it escapes all letters beyond ASCII.
    limits = DEFAULT_LIMITS.of_file(size)
    largest = limits.inflated_bytes(size) + 4 * limits.config_bytes
    try:
        sandbox.enter(_readable(path), [path.parent], folder, largest)
        with open_archive(path) as archive:
            arrays = describe(archive, folder)
            channel.send({})
            write_arrays(arrays, channel.request()["arrays"], folder)
            return {}
    except ModelFileError as error:
        return {"error": error_fields(error)}
    except MemoryError:
        return {"error": error_fields(CorruptFileError(path, "needs more memory than its size explains"))}
    except OSError as error:
        if error.errno == errno.EFBIG:
            return {"error": error_fields(CorruptFileError(path, "is larger than its size explains"))}
        return {"system": os.strerror(error.errno or errno.EIO)}


def _readable(path: Path) -> list[Path]:
    """Python's modules, and the files that may belong to the model.

    A `.keras` or `.h5` may be beside those of others: only a config belongs to it.
    """
    found = sandbox.python_folders()
    alone = path.suffix in MODEL_SUFFIXES
    found += [path.resolve()] if alone else [path.parent]
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        # A file may be a link, as in a volume of Kubernetes.
        found += [Path(entry.path).resolve() for entry in entries if not alone or entry.name.endswith(".json")]
    return found
