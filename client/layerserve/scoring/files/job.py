"""A job: a model applied to all rows of files, with the results in files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from layerserve.errors import InvalidArgument, LayerserveError
from layerserve.scoring.files import fragments as divide
from layerserve.scoring.files import readers
from layerserve.scoring.files.fragments import Fragment, Source
from layerserve.scoring.files.locations import Location
from layerserve.scoring.files.manifest import Manifest, job_facts
from layerserve.scoring.files.result import Result
from layerserve.scoring.files.rows import Rows
from layerserve.scoring.files.worker import Done, Task, values_type
from layerserve.scoring.files.workers import Workers
from layerserve.scoring.request import OnError
from layerserve.scoring.scorer import Scorer
from layerserve.values.tensors import NUMPY_DTYPES

#: A batch has inputs of about this size, in bytes, but so many rows at least and at most.
_BATCH_BYTES = 1 << 20
_BATCH_ROWS = (32, 8192)
#: Of a server, which others use, too: a part of its queue.
_SERVER_ROWS = 1024
#: The argument of a scorer, as the command has it.
_OPTION = re.compile(r"input_columns=\{'(.*?)': NAME\}")


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


class Job:
    """A scorer applied to the rows of files. The rows of the result have the order of the input."""

    def __init__(
        self,
        scorer: Scorer,
        source: Source,
        to: Location,
        *,
        batch_size: int | None = None,
        on_error: OnError = "stop",
    ) -> None:
        """Finds out what the input has, and writes nothing. `to` is a folder, or a file by its suffix.

        Raises InvalidArgument, MissingInput or InvalidTensor for input that doesn't fit.
        """
        self._scorer = scorer
        self._source = source
        self._result = Result(to, source)
        self._size = batch_size or default_batch_size(scorer)
        self._on_error = on_error
        infos = _described(source, scorer)
        self._schemas, rows = _fitting(source, infos, scorer, skip=on_error == "skip")
        self._result_schema = rows.schema
        self._result.check_columns(rows.schema)
        self._pieces: Sequence[Fragment] = list(divide.divided(source, infos))
        #: The number of all rows; None if only reading tells.
        self.total = _total(source, infos)
        #: The number of rows of the parts that are done, and stay done whatever ends the job.
        self.done_rows = 0

    def run(
        self, *, workers: int, resume: bool = False, overwrite: bool = False, report: Report = lambda rows, total: None
    ) -> Scored:
        """Scores the rows in this number of processes.

        With `resume` the job goes on where an earlier one ended, and with `overwrite` a result is replaced. Raises
        InvalidTensor for a row that can't be scored, Aborted if a part kills its workers, FailedPrecondition if there
        is a result, and InvalidArgument if that is of another job.
        """
        result = self._result
        result.check_free(resume=resume, overwrite=overwrite)
        was_joined = result.is_joined
        with result.locked() as lock:
            if overwrite:
                result.clear()
            result.remove_temporary()
            manifest = Manifest(result.manifest, self._facts())
            if resume:
                manifest.resume()
                if was_joined and manifest.joined_bytes is not None:
                    result.check_joined(manifest)
                    result.folder.remove()
                    return self._summary(manifest, len(manifest.parts))
                result.forget_lost(manifest)
            done = len(manifest.parts)
            manifest.write()
            try:
                self._score(manifest, workers, lock, report)
            finally:
                manifest.write()
                result.remove_temporary()
            result.finish(self._pieces, manifest)
            return self._summary(manifest, done)

    def _score(self, manifest: Manifest, workers: int, lock: int | None, report: Report) -> None:
        """Scores the parts that aren't done."""
        left = [one for one in self._pieces if one.index not in manifest.parts]
        read = self.done_rows = sum(part.rows + part.rejected for part in manifest.parts.values())
        report(read, self.total)
        with Workers(self._task(), workers, lock) as running:
            for message in running.score(left):
                if isinstance(message, Done):
                    self._result.keep(message, manifest)
                    self.done_rows += message.rows + message.rejected
                else:
                    read += message.rows
                    report(read, self.total)

    def _task(self) -> Task:
        result = self._result
        return Task(
            self._scorer,
            self._source.kind,
            result.kind,
            self._schemas[0],
            values_type(self._schemas),
            self._result_schema,
            self._size,
            self._on_error == "skip",
            result.folder,
            joined=result.is_file,
        )

    def _facts(self) -> dict[str, Any]:
        unreadable = {one.files[0].name for one in self._pieces if one.problem}
        options = {"batch_size": self._size, "on_error": self._on_error, "to": self._result.kind}
        return job_facts(self._scorer, self._source, unreadable, **options)

    def _summary(self, manifest: Manifest, resumed: int) -> Scored:
        scorer, result, parts = self._scorer, self._result, manifest.parts.values()
        rejected = sum(part.rejected for part in parts)
        return Scored(
            scorer.model,
            scorer.version,
            scorer.digest,
            result.to.url,
            sum(part.rows for part in parts),
            rejected,
            result.rejected.url if rejected else "",
            len(parts),
            resumed,
        )


def default_batch_size(scorer: Scorer) -> int:
    """Returns the number of rows with about a megabyte of inputs."""
    row = sum(
        math.prod(axis or 1 for axis in spec.shape[1:]) * NUMPY_DTYPES[spec.dtype].itemsize for spec in scorer.inputs
    )
    fewest, most = _BATCH_ROWS
    if scorer.engine == "server":
        most = _SERVER_ROWS
    return max(fewest, min(most, _BATCH_BYTES // max(1, row)))


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


def _fitting(found: Source, infos: list[readers.FileInfo], scorer: Scorer, *, skip: bool) -> tuple[list[Any], Rows]:
    """Returns the schemas of the files, and the rows that the first makes. Raises an error if a file doesn't fit."""
    first: tuple[str, Rows] | None = None
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
            first = file.name, rows
        elif not rows.schema.equals(first[1].schema):
            name = next(a.name for a, b in zip(rows.schema, first[1].schema, strict=True) if a.type != b.type)
            raise InvalidArgument(
                f"{file.name}: got column {name!r} of type {rows.schema.field(name).type}, expected "
                f"{first[1].schema.field(name).type}, as in {first[0]}"
            )
    if first is None:
        raise InvalidArgument(f"IN: no file of {found.location.url!r} can be read: {infos[0].problem}")
    return checked, first[1]


def _total(found: Source, infos: Sequence[readers.FileInfo]) -> int | None:
    if found.kind == "images":
        return len(found.files)
    return None if any(info.rows is None for info in infos) else sum(info.rows or 0 for info in infos)
