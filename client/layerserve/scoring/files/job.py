"""A job: a model applied to all rows of files, with the results in files."""

from __future__ import annotations

import fcntl
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from layerserve.errors import FailedPrecondition, InvalidArgument, LayerserveError
from layerserve.scoring.files import fragments as divide
from layerserve.scoring.files import readers, writers
from layerserve.scoring.files.fragments import Source
from layerserve.scoring.files.locations import TEMPORARY, Location
from layerserve.scoring.files.manifest import Manifest, Part, job_facts
from layerserve.scoring.files.readers import PATH
from layerserve.scoring.files.rows import Rows
from layerserve.scoring.files.worker import Done, Task
from layerserve.scoring.files.workers import Workers
from layerserve.scoring.scorer import Scorer
from layerserve.values.tensors import NUMPY_DTYPES

OnError = Literal["stop", "skip"]

__all__ = ["PATH", "Scored", "has_images", "score"]

MANIFEST = "_manifest.json"
REJECTED = "_rejected"
#: A batch has inputs of about this size, in bytes, but so many rows at least and at most.
_BATCH_BYTES = 1 << 20
_BATCH_ROWS = (32, 8192)
#: The argument of a scorer, as the command has it.
_OPTION = re.compile(r"input_columns=\{'(.*?)': NAME\}")
#: How long workers of a job that was killed may take to end, in seconds.
_ENDING = 10.0


@dataclass(frozen=True)
class Scored:
    """What was made. `rejected_to` is the folder with the rejected rows; empty if there are none."""

    model: str
    version: int
    digest: str
    to: str
    rows: int
    rejected: int
    rejected_to: str
    parts: int
    resumed_parts: int


#: Called with the number of rows that were read, and the number of all rows; None while that is unknown.
Report = Callable[[int, int | None], None]


def score(
    scorer: Scorer,
    source: Location,
    to: Location,
    *,
    workers: int,
    batch_size: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_error: OnError = "stop",
    report: Report = lambda rows, total: None,
) -> Scored:
    """Scores the rows of files. `to` is a folder, or a file by its suffix.

    The rows of the results have the order of the input. Raises InvalidArgument for input that doesn't fit, with
    nothing written, InvalidTensor for a row that can't be scored, and Aborted if a fragment kills its workers.
    """
    _check_apart(source, to)
    found = divide.find(source)
    infos = _described(found, scorer)
    schema, rows = _fitting(found, infos, scorer, skip=on_error == "skip")
    pieces = list(divide.divided(found, infos))
    is_file = to.suffix in sum(divide.KINDS.values(), ())
    to_kind = _kind_of(to, found, is_file=is_file)
    # Columns that the kind can't hold.
    _try_writer(to_kind, rows.schema)
    size = batch_size or default_batch_size(scorer)
    manifest_place = to.parent.child(f"{to.name}.manifest.json") if is_file else to.child(MANIFEST)
    folder = to.parent.child(f"{to.name}.parts") if is_file else to
    _check_free(to, folder, manifest_place, resume=resume, overwrite=overwrite)
    is_joined = is_file and to.exists() and not folder.exists()
    with _locked(folder) as lock:
        if overwrite:
            _clear(to, folder, manifest_place)
        _remove_temporary(folder)
        facts = job_facts(scorer, found, batch_size=size, on_error=on_error, to=to_kind)
        manifest = Manifest(manifest_place, facts)
        ending = divide.KINDS[to_kind][0]
        if resume:
            manifest.resume()
            if is_joined and len(manifest.parts) == len(pieces):
                folder.remove()
                return _summary(scorer, to, folder, manifest, len(manifest.parts), is_file=is_file)
            _forget_lost(manifest, folder, ending)
        done = len(manifest.parts)
        manifest.write()
        left = [one for one in pieces if one.index not in manifest.parts]
        total = None if any(info.rows is None for info in infos) else sum(info.rows or 0 for info in infos)
        if found.kind == "images":
            total = len(found.files)
        read = sum(part.rows + part.rejected for part in manifest.parts.values())
        report(read, total)
        task = Task(scorer, found.kind, to_kind, schema, rows.schema, size, on_error == "skip", folder, joined=is_file)
        try:
            with Workers(task, workers, lock) as running:
                for message in running.score(left):
                    if not isinstance(message, Done):
                        read += message.rows
                        report(read, total)
                        continue
                    if message.rejected_file is not None:
                        message.rejected_file.move(_rejected_place(to, folder, message.index, is_file=is_file))
                    message.file.move(folder.child(_part(message.index, ending)))
                    manifest.add(message.index, Part(message.rows, message.rejected, message.bytes))
        finally:
            manifest.write()
            # Also those of workers that died.
            _remove_temporary(folder)
        if is_file:
            temporary = to.temporary()
            with temporary.writing() as opened:
                writers.join(to_kind, [folder.child(_part(one.index, ending)) for one in pieces], opened)
            temporary.move(to)
        manifest.write(complete=True)
        if is_file:
            folder.remove()
        return _summary(scorer, to, folder, manifest, done, is_file=is_file)


def _summary(
    scorer: Scorer, to: Location, folder: Location, manifest: Manifest, resumed: int, *, is_file: bool
) -> Scored:
    parts = manifest.parts.values()
    rejected = sum(part.rejected for part in parts)
    place = _rejected_place(to, folder, 0, is_file=is_file).parent.url if rejected else ""
    return Scored(
        scorer.model,
        scorer.version,
        scorer.digest,
        to.url,
        sum(part.rows for part in parts),
        rejected,
        place,
        len(parts),
        resumed,
    )


def default_batch_size(scorer: Scorer) -> int:
    """Returns the number of rows with about a megabyte of inputs."""
    row = sum(
        math.prod(axis or 1 for axis in spec.shape[1:]) * NUMPY_DTYPES[spec.dtype].itemsize for spec in scorer.inputs
    )
    fewest, most = _BATCH_ROWS
    return max(fewest, min(most, _BATCH_BYTES // max(1, row)))


def has_images(source: Location) -> bool:
    """Whether the input is images, whose rows have a column `PATH`."""
    return source.exists() and divide.find(source).kind == "images"


def _described(found: Source, scorer: Scorer) -> list[readers.FileInfo]:
    if found.kind == "images":
        inputs = [columns[0] for spec, columns in scorer.sources() if len(spec.shape) > 2 and len(columns) == 1]
        if len(inputs) != 1:
            raise InvalidArgument(
                f"IN: got images for model {scorer.model!r}, expected a model with one input of images; it has "
                f"{', '.join(f'{spec.name} {spec.shape}' for spec in scorer.inputs)}"
            )
        return [readers.describe_images(inputs[0])]
    return [readers.describe(found.kind, file) for file in found.files]


def _fitting(found: Source, infos: list[readers.FileInfo], scorer: Scorer, *, skip: bool) -> tuple[Any, Rows]:
    """Returns the first file's schema, and the rows that it makes. Raises an error if a file doesn't fit."""
    first: tuple[str, Any, Rows] | None = None
    checked: list[Any] = []
    for file, info in zip(found.files, infos, strict=False):
        if info.problem:
            if not skip:
                raise InvalidArgument(f"{file.name}: {info.problem}; --on-error skip goes on with the other files")
            continue
        if any(info.schema.equals(one) for one in checked):
            continue
        checked.append(info.schema)
        try:
            rows = Rows(scorer, info.schema, found.kind)
        except LayerserveError as error:
            label = found.location.name if found.kind == "images" else file.name
            text = _OPTION.sub(r"--columns \1=NAME", str(error).removeprefix("batch: "))
            raise type(error)(f"{label}: {text}") from None
        if first is None:
            first = file.name, info.schema, rows
        elif not rows.schema.equals(first[2].schema):
            name = next(a.name for a, b in zip(rows.schema, first[2].schema, strict=True) if a.type != b.type)
            raise InvalidArgument(
                f"{file.name}: got column {name!r} of type {rows.schema.field(name).type}, expected "
                f"{first[2].schema.field(name).type}, as in {first[0]}"
            )
    if first is None:
        raise InvalidArgument(f"IN: no file of {found.location.url!r} can be read: {infos[0].problem}")
    return first[1], first[2]


def _kind_of(to: Location, found: Source, *, is_file: bool) -> str:
    kind = next((kind for kind, ends in divide.KINDS.items() if to.suffix in ends), "")
    if kind == "images":
        raise InvalidArgument(f"OUT: got {to.name!r}, expected a folder, or a .parquet, .csv or .npz file")
    if is_file:
        return kind
    return "parquet" if found.kind == "images" else found.kind


def _try_writer(kind: str, schema: Any) -> None:
    import io

    writers.writer(kind, io.BytesIO(), schema).close()


def _part(index: int, ending: str) -> str:
    return f"part-{index:06}{ending}"


def _rejected_place(to: Location, folder: Location, index: int, *, is_file: bool) -> Location:
    place = to.parent.child(f"{to.name}.rejected") if is_file else folder.child(REJECTED)
    return place.child(_part(index, ".parquet"))


def _check_apart(source: Location, to: Location) -> None:
    one, other = source.url.rstrip("/") + "/", to.url.rstrip("/") + "/"
    if one.startswith(other) or other.startswith(one):
        raise InvalidArgument(f"OUT: got {to.url!r}, expected a place outside of IN, {source.url!r}")


def _check_free(to: Location, folder: Location, manifest: Location, *, resume: bool, overwrite: bool) -> None:
    """Raises an error if there is something else, or a result without leave to go on with it or to replace it."""
    if resume and overwrite:
        raise InvalidArgument("got --resume and --overwrite, expected one of the two")
    names = folder.below() if folder.exists() else []
    taken = to.exists() if to != folder else False
    if not names and not taken:
        return
    if not resume and not overwrite:
        raise FailedPrecondition(
            f"OUT: {to.url!r} isn't empty; pass --resume to go on with a job that was interrupted, or --overwrite"
        )
    if not manifest.exists():
        foreign = [name for name in names if not _is_ours(name)]
        if foreign or (resume and taken):
            raise FailedPrecondition(
                f"OUT: {to.url!r} has {', '.join(map(repr, foreign[:3])) or 'no manifest'}, so it isn't a result of "
                "`score`; choose another folder"
            )


def _is_ours(name: str) -> bool:
    return name.startswith(("part-", TEMPORARY, f"{REJECTED}/")) or name == MANIFEST


def _clear(to: Location, folder: Location, manifest: Location) -> None:
    """Removes a result, the manifest first: without it nothing is done."""
    if manifest.exists():
        manifest.remove()
    for name in folder.below() if folder.exists() else ():
        if _is_ours(name):
            folder.child(name).remove()
    rejected = to.parent.child(f"{to.name}.rejected")
    if to != folder and rejected.exists():
        rejected.remove()


def _remove_temporary(folder: Location) -> None:
    if folder.exists():
        for name in folder.below():
            if name.startswith(TEMPORARY):
                folder.child(name).remove()


def _forget_lost(manifest: Manifest, folder: Location, ending: str) -> None:
    """Forgets the parts whose files are gone, or of another size than they were."""
    for index, part in list(manifest.parts.items()):
        if folder.child(_part(index, ending)).size() != part.bytes:
            del manifest.parts[index]


@contextmanager
def _locked(folder: Location) -> Iterator[int | None]:
    """Keeps other jobs from a folder of this machine. Raises FailedPrecondition if there is one.

    Workers have the lock, too: those of a job that was killed end within moments.
    """
    if not folder.is_local:
        yield None
        return
    os.makedirs(folder.url, exist_ok=True)
    lock = os.open(folder.url, os.O_RDONLY)
    try:
        end = time.monotonic() + _ENDING
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise FailedPrecondition(f"OUT: another job writes to {folder.url!r}") from None
                time.sleep(0.05)
        yield lock
    finally:
        os.close(lock)
