"""Downloads of files, verified by SHA-256 and put in place atomically."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Callable
from functools import partial as bind
from pathlib import Path
from typing import Any

from layerserve.calls.flow import Close, Flow, open_stream, receive, work
from layerserve.calls.methods import DOWNLOAD_MODEL, Method
from layerserve.errors import DataLoss, InvalidArgument
from layerserve.models.formats import model_format
from layerserve.v1.models_pb2 import DownloadModelRequest, ModelVersion
from layerserve.v1.tensor_pb2 import ModelSpec

#: Kinds of model files by suffix.
_KINDS = {".keras": "a .keras file", ".h5": "an HDF5 file", ".hdf5": "an HDF5 file"}


class PartialFile:
    """A file being downloaded: written to a temporary file beside its destination, and renamed when it is verified.

    Creates the destination's folder if it doesn't exist.
    """

    def __init__(self, destination: Path) -> None:
        destination.parent.mkdir(parents=True, exist_ok=True)
        self.destination = destination
        self._path = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.part")
        self._file = self._path.open("xb")
        self._sha256 = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)

    def publish(self, sha256: str) -> Path:
        """Verifies the file and renames it to its destination, replacing an existing file. Raises DataLoss, OSError."""
        if self._sha256.hexdigest() != sha256.lower():
            raise DataLoss(
                f"file {self.destination.name!r}: got SHA-256 {self._sha256.hexdigest()}, expected {sha256 or 'one'}"
            )
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._path.replace(self.destination)
        return self.destination

    def discard(self) -> None:
        """Removes the temporary file. Does nothing after `publish`."""
        # On a full disk closing fails, too, as it writes what is still buffered.
        with contextlib.suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)


def download(spec: ModelSpec, path: str | os.PathLike[str], format: str | None) -> Flow[Path]:
    """Flow that downloads a model file to a file, or to a directory as "<model>-<version>.keras". Returns its path."""
    return (
        yield from fetch(
            DOWNLOAD_MODEL,
            DownloadModelRequest(model=spec, format=model_format(format)),
            f"model {spec.name!r}",
            lambda reply: _destination(os.fspath(path), reply.version),
        )
    )


def fetch(method: Method[Any, Any], request: Any, what: str, destination: Callable[[Any], Path]) -> Flow[Path]:
    """Flow that downloads a file. `destination` returns its path for the first reply; the last one has the SHA-256."""
    stream = yield from open_stream(method, request)
    partial: PartialFile | None = None
    sha256 = ""
    try:
        while (reply := (yield from receive(stream))) is not None:
            if partial is None:
                partial = yield from work(bind(PartialFile, destination(reply)))
            if reply.data:
                yield from work(bind(partial.write, reply.data))
            sha256 = reply.sha256 or sha256
        if partial is None:
            raise DataLoss(f"{what}: the server closed the stream without sending data")
        return (yield from work(bind(partial.publish, sha256)))
    except (OSError, InvalidArgument):  # such as a full disk, or a folder that can't be written
        yield Close(stream)
        raise
    finally:
        if partial is not None:
            partial.discard()


def _destination(path: str, version: ModelVersion) -> Path:
    """Returns the path itself, or "<model>-<version>.keras" in it if it is a directory or ends with a slash."""
    name = re.sub(r"[^\w.-]", "_", version.name).lstrip(".") or "model"
    return model_path(path, f"{name}-{version.version}", version.file)


def model_path(path: str, name: str, file: str) -> Path:
    """Returns the path itself, or that of a file in it if it is a directory or ends with a slash.

    `name` is the name of such a file without its suffix, and `file` the server's name of the model file, which has the
    suffix. Raises InvalidArgument if the path has the suffix of another kind of model file: Keras can't open it then.
    """
    # Names come from the server: characters that could lead out of the directory are replaced.
    suffix = Path(file).suffix if re.fullmatch(r"\.\w+", Path(file).suffix) else ".keras"
    if path.endswith(("/", os.sep)) or Path(path).is_dir():
        return Path(path) / (name + suffix)
    given, sent = _KINDS.get(Path(path).suffix), _KINDS.get(suffix)
    if given and sent and given != sent:
        raise InvalidArgument(
            f"path: got {path!r} for {sent}, expected one that ends in {suffix}, or a `format` to convert it to"
        )
    return Path(path)
