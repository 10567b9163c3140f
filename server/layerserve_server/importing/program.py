"""Program of the process that reads model files: it forks a child in a sandbox for each. It doesn't import torch.

The messages are JSON objects, one per line. The server sends {"path", "folder"}; the child describes the file in the
folder and replies {}. If the server then sends {"arrays": [[number, order], ...]}, it writes them and replies {}.
{"error": ...} is an error of the file, {"system": ...} one of the system. See `layergraph.archive.imported`.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import gc
import json
import os
import socket
import sysconfig
from pathlib import Path
from typing import IO, Any

if __name__ == "__main__":
    from layerserve_server.forking.bare import import_bare

    import_bare("layergraph")

from layergraph.archive import DEFAULT_LIMITS, open_archive
from layergraph.archive.finding import MODEL_SUFFIXES
from layergraph.archive.imported.form import error_fields
from layergraph.archive.imported.writing import describe, write_arrays
from layergraph.archive.saved_model.opening import SAVED_MODEL, VARIABLES
from layergraph.errors import CorruptFileError, ModelFileError

from layerserve_server.forking import forked
from layerserve_server.importing import sandbox

#: Added to the niceness of the server.
NICENESS = 5
#: Processor time in seconds, and memory in bytes, for any file; large files get more.
SECONDS = 10.0
MEMORY_BYTES = 1 << 30
#: Minimum throughput in bytes per second: that of HDF5 in files of many small arrays.
_BYTES_PER_SECOND = 5_000_000
#: Maximum elapsed time in seconds: between its replies the server builds the model.
_WALL_SECONDS = 3600.0


def main() -> None:
    """Forks for each file, until the server closes the socket."""
    # Requests come first.
    os.nice(NICENESS)
    _import_all()
    forked.serve(_handle)


def _import_all() -> None:
    """Imports what all files need, and excludes it from garbage collection."""
    import google_crc32c  # noqa: F401
    import h5py  # noqa: F401

    # Of names in zip files. Python imports it for the first one.
    codecs.lookup("cp437")

    gc.collect()
    gc.freeze()


def _handle(channel: socket.socket) -> None:
    """Reads the first message, and supervises the process that reads the file."""
    messages = channel.makefile("rb")
    if not (line := messages.readline()):
        return
    request = json.loads(line)
    path, folder = Path(request["path"]), Path(request["folder"])
    size = _size(path)

    def work() -> None:
        _import(path, folder, size, messages, channel)

    forked.supervise(
        channel,
        work,
        seconds=SECONDS + size / _BYTES_PER_SECOND,
        memory_bytes=MEMORY_BYTES + 2 * size,
        wall_seconds=_WALL_SECONDS,
    )


def _size(path: Path) -> int:
    """Size of a file; of a SavedModel folder or its `saved_model.pb`, that of all files of the folder."""
    folder = path.parent if path.name == SAVED_MODEL else path
    try:
        if not folder.is_dir():
            return path.stat().st_size
        inside = [*os.scandir(folder)]
        if (variables := folder / VARIABLES.parts[0]).is_dir():
            inside += os.scandir(variables)
        return sum(entry.stat(follow_symlinks=False).st_size for entry in inside)
    except OSError:
        return 0


def _import(path: Path, folder: Path, size: int, messages: IO[bytes], channel: socket.socket) -> None:
    # The description may be longer than the configs: it escapes all letters beyond ASCII.
    limits = DEFAULT_LIMITS.of_file(size)
    largest = limits.inflated_bytes(size) + 4 * limits.config_bytes

    def reply(message: dict[str, Any]) -> None:
        channel.sendall(json.dumps(message).encode() + b"\n")

    try:
        sandbox.enter(_readable(path), [path.parent], folder, largest)
        with open_archive(path) as archive:
            arrays = describe(archive, folder)
            reply({})
            if line := messages.readline():
                write_arrays(arrays, json.loads(line)["arrays"], folder)
                reply({})
    except ModelFileError as error:
        reply({"error": error_fields(error)})
    except MemoryError:
        reply({"error": error_fields(CorruptFileError(path, "needs more memory than its size explains"))})
    except OSError as error:
        if error.errno == errno.EFBIG:
            reply({"error": error_fields(CorruptFileError(path, "is larger than its size explains"))})
        else:
            reply({"system": os.strerror(error.errno or errno.EIO)})


def _readable(path: Path) -> list[Path]:
    """Python's modules, of which some are imported when first needed, and the files that may belong to the model.

    A `.keras` or `.h5` may be beside those of others: only a config belongs to it.
    """
    found = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    alone = path.suffix in MODEL_SUFFIXES
    found += [path.resolve()] if alone else [path.parent]
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        # A file may be a link, as in a volume of Kubernetes.
        found += [Path(entry.path).resolve() for entry in entries if not alone or entry.name.endswith(".json")]
    return found


if __name__ == "__main__":
    main()
