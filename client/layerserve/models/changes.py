"""Flows that change the models of a server, and their results."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import threading
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial as bind
from pathlib import Path
from typing import Any, Literal

from layerserve.calls.flow import Flow, call, open_stream, receive, work
from layerserve.calls.methods import UPLOAD_MODEL, Method
from layerserve.errors import InvalidArgument, LayerserveError, Unavailable
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


def change(method: Method[Any, Any], name: str, **fields: Any) -> Flow[ModelChange]:
    """Flow of a change by one call."""
    reply = yield from call(method, method.request(name=checked_name(name), **fields))
    version = reply.version if method.reply is pb.RollBackResponse else None
    return read_change(reply.change, version)


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
    stream = yield from open_stream(UPLOAD_MODEL, sender)
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


class Upload(Iterable[pb.UploadModelRequest], AsyncIterable[pb.UploadModelRequest]):
    """The requests of an UploadModel call, made while they are sent. Can be iterated once.

    The content is sent after the server has accepted the spec (see `training_data.Upload`). `error` is an error while
    reading a file; the stream then ends early, so that the server drops the upload.
    """

    def __init__(self, spec: pb.UploadSpec, sources: Sequence[Path], progress: UploadProgress | None) -> None:
        self.error: LayerserveError | None = None
        self.bytes = sum(file.bytes for file in spec.files)
        self._spec = spec
        self._sources = sources
        self._progress = progress
        self._sent = 0
        self._decided = threading.Event()
        self._accepted = False

    def accept(self) -> None:
        """Starts sending the content."""
        self._accepted = True
        self._decided.set()

    def abandon(self) -> None:
        """Ends the requests, so that the server drops what isn't complete, and releases the waiting sender."""
        self._accepted = False
        self._decided.set()

    def __iter__(self) -> Iterator[pb.UploadModelRequest]:
        yield pb.UploadModelRequest(spec=self._spec)
        self._decided.wait()
        yield from self._content()

    async def __aiter__(self) -> AsyncIterator[pb.UploadModelRequest]:
        yield pb.UploadModelRequest(spec=self._spec)
        await asyncio.to_thread(self._decided.wait)
        content = self._content()
        while (message := await asyncio.to_thread(next, content, None)) is not None:
            yield message

    def _content(self) -> Iterator[pb.UploadModelRequest]:
        try:
            for index, source in enumerate(self._sources):
                with source.open("rb") as file:
                    while self._accepted and (data := file.read(CHUNK)):
                        yield pb.UploadModelRequest(chunk=pb.UploadChunk(file=index, data=data))
                        self._sent += len(data)
                        if self._progress is not None:
                            self._progress("sending", self._sent, self.bytes)
        except OSError as error:
            self.error = InvalidArgument(f"file {source}: {error.strerror}")
        except Exception as error:  # of `progress`
            self.error = InvalidArgument(f"progress: {type(error).__name__}: {error}")


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
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
            size += len(data)
    return pb.UploadFile(path=inside, bytes=size, sha256=digest.hexdigest())
