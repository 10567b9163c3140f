"""What a child process makes of sampled requests: a dataset with corrected answers as targets."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from layerserve_server.disk import sha256
from layerserve_server.errors import (
    InvalidRequestError,
    InvalidTensorError,
    NotTrainableError,
    TooLargeError,
    safe_text,
)
from layerserve_server.jobs.channel import Channel, never
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.jobs.table import Job
from layerserve_server.records import DAMAGED

logger = logging.getLogger(__name__)

Array: TypeAlias = npt.NDArray[Any]

MAKE_DATASET = Job(
    f"{__name__}:make_dataset", "making a dataset of sampled requests", queued=True, setting="check_seconds"
)
#: Maximum processor time of making a dataset, in seconds.
MAKING_SECONDS = 600.0
#: Keys of a file of samples besides the names of inputs and outputs: the id of each row's request, the digest of its
#: caller's name, and its Unix time.
ID, OWNER, TIME = "request_id", "request_owner", "request_time"
#: Before the name of an output that is also the name of an input.
OUTPUT = "output:"
#: Errors of reading a damaged file.
UNREADABLE = (*DAMAGED, EOFError, zipfile.BadZipFile, zlib.error)
#: File of the corrections beside the dataset's: an array for each target, and JSON with what each is for.
CORRECTIONS, INDEX = "corrections.npz", "index"


@dataclass(frozen=True, slots=True)
class Correction:
    """The corrected answer to a request: targets by output name."""

    request_id: str
    targets: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class _Request:
    """A sampled request: rows of a file."""

    file: Path
    rows: slice
    id: str
    moment: float

    @property
    def count(self) -> int:
        return int(self.rows.stop - self.rows.start)


def owner_digest(owner: str) -> bytes:
    """Returns what a file has for a caller. NumPy's texts would lose the end of some names."""
    return hashlib.sha256(owner.encode("utf-8", "surrogatepass")).hexdigest().encode()


def write_corrections(folder: Path, corrections: Sequence[Correction]) -> None:
    """Writes corrections to a folder, for `make_dataset`. Raises OSError."""
    arrays: dict[str, Array] = {}
    index = []
    for correction in corrections:
        targets = {}
        for output, target in correction.targets.items():
            targets[output] = key = f"t{len(arrays)}"
            arrays[key] = target
        index.append({"id": correction.request_id, "targets": targets})
    text = np.frombuffer(json.dumps(index).encode(), np.uint8)
    _write(folder / CORRECTIONS, {**arrays, INDEX: text}.items())


def made(jobs: Jobs, arguments: Mapping[str, Any], gone: Callable[[], bool] = never) -> tuple[int, str]:
    """Makes the file of a dataset, and returns its size and SHA-256. Raises as `make_dataset` and `Jobs.run` do."""
    reply = jobs.run(MAKE_DATASET, arguments, jobs.limits(seconds=MAKING_SECONDS), gone)
    return reply["bytes"], reply["sha256"]


# In the child process.


def make_dataset(arguments: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The job: writes the file, and returns its size and digest.

    Raises InvalidRequestError for a request that wasn't sampled, InvalidTensorError for targets that don't fit, and
    TooLargeError if the file would have more than `most` bytes.
    """
    target = Path(arguments["file"])
    inputs, outputs = arguments["inputs"], arguments["outputs"]
    corrections = _read_corrections(target.parent)
    wanted = {*inputs, *(_answer_key(name, inputs) for name in outputs)}
    owner = None if arguments["owner"] is None else owner_digest(arguments["owner"])
    sampled = [one for folder in arguments["folders"] for one in _requests(Path(folder), wanted, owner)]
    chosen = _chosen(sampled, corrections, uncorrected=arguments["uncorrected"])
    if not chosen:
        raise InvalidRequestError("corrections: got none, expected at least one, or uncorrected requests")
    columns: dict[str, list[tuple[_Request, str, Array | None]]] = {}
    for name in inputs:
        columns[f"x/{name}"] = [(one, name, None) for one in chosen]
    for name in outputs:
        key = _answer_key(name, inputs)
        columns[f"y/{name}"] = [(one, key, corrections.get(one.id, {}).get(name)) for one in chosen]
    read = _Files()
    room = [arguments["most"]]

    def arrays() -> Iterator[tuple[str, Array]]:
        for name, parts in columns.items():
            array = _joined(name, [_part(read, *part) for part in parts])
            room[0] -= array.nbytes
            if room[0] < 0:
                raise TooLargeError(f"dataset: it has more than {arguments['most']} bytes, for which there is room")
            yield name, array

    try:
        _write(target, arrays())
        (target.parent / CORRECTIONS).unlink()
    except OSError as error:
        raise NotTrainableError(f"the dataset can't be written: {error.strerror}") from error
    return {"bytes": target.stat().st_size, "sha256": sha256(target)}


def _read_corrections(folder: Path) -> dict[str, dict[str, Array]]:
    with np.load(folder / CORRECTIONS, allow_pickle=False) as archive:
        found: dict[str, dict[str, Array]] = {}
        for entry in json.loads(archive[INDEX].tobytes()):
            if entry["id"] in found:
                raise InvalidRequestError(f"request '{safe_text(entry['id'], 80)}': got two corrections, expected one")
            found[entry["id"]] = {output: archive[key] for output, key in entry["targets"].items()}
    return found


def _answer_key(output: str, inputs: Sequence[str]) -> str:
    return OUTPUT + output if output in inputs else output


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Opens a file of samples. Raises UNREADABLE if it is damaged."""
    # NumPy itself doesn't close a file that it can't read.
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
        yield archive


def _requests(folder: Path, wanted: set[str], owner: bytes | None) -> Iterator[_Request]:
    """Yields the requests of an owner, or of all, in the files of a version that have the wanted arrays."""
    for file in sorted(folder.glob("*.npz")):
        try:
            with _opened(file) as archive:
                if not wanted.issubset(archive.files) or not {ID, OWNER, TIME}.issubset(archive.files):
                    continue
                ids, owners, moments = (archive[key].tolist() for key in (ID, OWNER, TIME))
        except FileNotFoundError:  # removed meanwhile, as too many were kept
            continue
        except UNREADABLE as error:
            logger.warning("%s: sampled requests can't be read: %s", file, safe_text(str(error), 200))
            continue
        start = 0
        for (id, whose, moment), rows in itertools.groupby(zip(ids, owners, moments, strict=True)):
            stop = start + len(list(rows))
            if owner in (None, whose):
                text = id.decode(errors="replace") if isinstance(id, bytes) else str(id)
                yield _Request(file, slice(start, stop), text, float(moment))
            start = stop


def _chosen(
    sampled: Sequence[_Request], corrections: Mapping[str, Mapping[str, Array]], *, uncorrected: bool
) -> list[_Request]:
    """Returns the requests to use, in the order of their time; of several with the id of a correction the last."""
    last: dict[str, _Request] = {}
    others = []
    for one in sorted(sampled, key=lambda one: one.moment):
        if one.id in corrections:
            last[one.id] = one
        elif uncorrected:
            others.append(one)
    for id, targets in corrections.items():
        shown = safe_text(id, 80)
        if id not in last:
            raise InvalidRequestError(f"request '{shown}': no sampled request of this model has this id")
        for output, target in targets.items():
            if target.ndim == 0 or len(target) != last[id].count:
                raise InvalidTensorError(
                    f"request '{shown}', output '{output}': got shape {target.shape}, expected {last[id].count} rows, "
                    "as the request has"
                )
    return sorted([*last.values(), *others], key=lambda one: one.moment)


class _Files:
    """Arrays of the files, of which the last array that was read is kept."""

    def __init__(self) -> None:
        self._read: tuple[Path, str] | None = None
        self._array: Array = np.empty(0)

    def array(self, file: Path, key: str) -> Array:
        if self._read != (file, key):
            try:
                with _opened(file) as archive:
                    self._array = archive[key]
            except UNREADABLE as error:
                what = "was removed meanwhile; try again" if isinstance(error, FileNotFoundError) else "is damaged"
                raise InvalidRequestError(f"a file of sampled requests {what}") from None
            self._read = file, key
        return self._array


def _part(read: _Files, request: _Request, key: str, correction: Array | None) -> Array:
    return read.array(request.file, key)[request.rows] if correction is None else correction


def _joined(name: str, parts: Sequence[Array]) -> Array:
    """Joins the rows of all requests. Raises InvalidTensorError if they differ in shape or kind."""
    kinds = {("number" if part.dtype.kind in "biuf" else part.dtype.kind, part.shape[1:]) for part in parts}
    if len(kinds) > 1:
        shapes = sorted({f"{part.dtype} {part.shape[1:]}" for part in parts})
        raise InvalidTensorError(f"'{name}': got rows of {' and of '.join(shapes[:3])}, expected the same for all")
    return np.concatenate(parts)


def _write(path: Path, arrays: Any) -> None:
    """Writes arrays by name to a .npz file without compression, to the same bytes whenever it is written."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays:
            # A ZipInfo of its own has no time.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
