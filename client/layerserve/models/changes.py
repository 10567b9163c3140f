"""Flows that change the models of a server, and their results."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial as bind
from pathlib import Path
from typing import Any, Literal

from layerserve.calls.flow import Flow, call, open_stream, receive, work
from layerserve.calls.methods import METHODS, rpc
from layerserve.calls.sender import Sender
from layerserve.errors import InvalidArgument, LayerserveError, Unavailable
from layerserve.models.file_digest import file_digest
from layerserve.models.info import ModelInfo, Models, read_model_info
from layerserve.v1 import management_pb2 as pb

#: Size of the pieces of an upload, in bytes.
CHUNK = 256 * 1024
#: Names of files in a version's folder.
GOLDEN, SETTINGS = "golden.npz", "layerserve.toml"
#: Files in a version's or model's folder that the server writes itself.
_OF_SERVER = ("manifest.json", "labels.json", "serving.json")
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%")
_NAMES = {".keras": "model.keras", ".h5": "model.h5", ".hdf5": "model.hdf5"}

#: Called with "sending" or "testing", and the number of bytes sent and in total.
UploadProgress = Callable[[Literal["sending", "testing"], int, int], object]


class VersionWarning(UserWarning):
    """A new version may not serve as expected: another one stays the default, or its inputs or outputs are others."""


@dataclass(frozen=True, slots=True)
class ModelChange:
    """A model after a change.

    `version` is the version that was uploaded or rolled back to, otherwise None. `versions` are all versions, newest
    first. `lagging` has a text for each process of the server in which the change isn't in effect; it is empty if it is
    in effect in all. `differences` has a text for each input and output of an uploaded version that differs from those
    of the version that was the default before.
    """

    version: int | None
    versions: Models
    lagging: tuple[str, ...]
    differences: tuple[str, ...] = ()

    @property
    def default(self) -> ModelInfo | None:
        """The version that answers requests that name none; None if there is none."""
        return next((info for info in self.versions if info.served_by_default), None)

    @property
    def canary(self) -> ModelInfo | None:
        """The version that a share of callers gets in place of the default (`canary_share`); None if there is none."""
        return next((info for info in self.versions if info.canary_share), None)


def read_change(message: pb.ModelChange, version: int | None = None) -> ModelChange:
    return ModelChange(version, Models(map(read_model_info, message.versions)), tuple(message.lagging))


def change(rpc_name: str, name: str, **fields: Any) -> Flow[ModelChange]:
    """Flow of a change by one call, of the RPC with this name."""
    method = METHODS[rpc_name]
    reply = yield from call(method.request(name=checked_name(name), **fields), method.reply)
    return read_change(reply.change, getattr(reply, "version", None))


def warn_of_differences(model: str, change: ModelChange, stacklevel: int) -> ModelChange:
    """Warns of each input and output of an uploaded version that differs from the default's before. Returns the change.

    `stacklevel` is that of `warnings.warn`.
    """
    for text in change.differences:
        warnings.warn(f"model {model!r}: {text}", VersionWarning, stacklevel=stacklevel + 1)
    return change


def checked_name(name: str) -> str:
    """Returns the name of a model. Raises InvalidArgument if it is empty or no text."""
    if not isinstance(name, str) or not name:
        raise InvalidArgument(f"model: got {name!r}, expected the name of a model")
    return name


def checked_version(version: int) -> int:
    """Returns the number of a version. Raises InvalidArgument if it isn't a positive integer."""
    if isinstance(version, bool) or not isinstance(version, int) or version <= 0:
        raise InvalidArgument(f"version: got {version!r}, expected the number of a version")
    return version


def read_share(share: str) -> float:
    """Returns a percentage such as "5%" as a number from 0 to 1.

    Raises InvalidArgument for anything else, also for numbers: 5 and 0.05 could each mean either.
    """
    found = _PERCENT.fullmatch(share) if isinstance(share, str) else None
    if found is None or float(found[1]) > 100:
        raise InvalidArgument(f"share: got {share!r}, expected a percentage from '0%' to '100%', such as '5%'")
    return float(found[1]) / 100


def upload(
    name: str,
    path: str | os.PathLike[str],
    golden: str | os.PathLike[str] | None,
    settings: str | os.PathLike[str] | None,
    label: str | None,
    progress: UploadProgress | None,
) -> Flow[ModelChange]:
    """Flow that uploads a version."""
    spec, sources = yield from work(bind(_spec, checked_name(name), Path(path), golden, settings, label))
    sender = Upload(spec, sources, progress)
    stream = yield from open_stream(rpc(pb.UploadModelRequest, pb.UploadModelResponse), sender)
    try:
        while (reply := (yield from receive(stream))) is not None:
            event = reply.WhichOneof("event")
            if event == "accepted":
                sender.accept()
            elif event == "received" and progress is not None:
                progress("testing", sender.bytes, sender.bytes)
            elif event == "published":
                change = read_change(reply.published.change, reply.published.version)
                return replace(change, differences=tuple(reply.published.differences))
    except LayerserveError as error:
        raise (sender.error or error) from None
    finally:
        sender.abandon()
    raise sender.error or Unavailable("the server closed the stream before it published the version")


class Upload(Sender[pb.UploadModelRequest]):
    """The requests of an UploadModel call: the spec, then the files in chunks."""

    what = "progress"

    def __init__(self, spec: pb.UploadSpec, sources: Sequence[Path], progress: UploadProgress | None) -> None:
        super().__init__()
        self.bytes = sum(file.bytes for file in spec.files)
        self._spec = spec
        self._sources = sources
        self._progress = progress

    def first(self) -> pb.UploadModelRequest:
        return pb.UploadModelRequest(spec=self._spec)

    def content(self) -> Iterator[pb.UploadModelRequest]:
        sent = 0
        for index, source in enumerate(self._sources):
            try:
                with source.open("rb") as file:
                    while self.wanted and (data := file.read(CHUNK)):
                        yield pb.UploadModelRequest(chunk=pb.UploadChunk(file=index, data=data))
                        sent += len(data)
                        if self._progress is not None:
                            self._progress("sending", sent, self.bytes)
            except OSError as error:
                raise InvalidArgument(f"file {source}: {error.strerror}") from None


def _spec(
    name: str,
    path: Path,
    golden: str | os.PathLike[str] | None,
    settings: str | os.PathLike[str] | None,
    label: str | None,
) -> tuple[pb.UploadSpec, list[Path]]:
    """Returns the spec of a version, and the paths of its files. Raises InvalidArgument, OSError."""
    files = _files(path)
    for given, inside in ((golden, GOLDEN), (settings, SETTINGS)):
        if given is not None:
            files[inside] = Path(given)
    declared = [_declared(inside, source) for inside, source in files.items()]
    return pb.UploadSpec(name=name, files=declared, label=label or ""), list(files.values())


def _files(path: Path) -> dict[str, Path]:
    """Returns the files of a version by their paths in its folder."""
    if not path.is_dir():
        if path.suffix not in _NAMES:
            path.stat()  # raises for one that doesn't exist
            raise InvalidArgument(
                f"file {path}: got suffix '{path.suffix}', expected {', '.join(_NAMES)}, or the folder of a version"
            )
        return {_NAMES[path.suffix]: path}
    found = {}
    for source in sorted(path.rglob("*")):
        inside = source.relative_to(path)
        if source.is_file() and not any(part.startswith(".") for part in inside.parts):
            found[inside.as_posix()] = source
    found = {inside: source for inside, source in found.items() if inside not in _OF_SERVER}
    if not found:
        raise InvalidArgument(f"folder {path}: it has no files")
    return found


def _declared(inside: str, source: Path) -> pb.UploadFile:
    size, digest = file_digest(source)
    return pb.UploadFile(path=inside, bytes=size, sha256=digest)
