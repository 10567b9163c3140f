"""A process that scores fragments, which it is sent one after the other.

Messages are Python's pickles: of this process's parent only. It is sent a `Task`, then fragments, and answers to each
with `Progress`, and at last with `Done` or `Failed`. It writes files of temporary names only; the parent renames them.
"""

from __future__ import annotations

import os
import pickle
import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

from layerserve import errors
from layerserve.errors import InvalidTensor, LayerserveError
from layerserve.scoring.files.fragments import Fragment
from layerserve.scoring.files.locations import Location
from layerserve.scoring.scorer import Scorer


@dataclass(frozen=True)
class Task:
    """What is the same for all fragments. `kind` is that of the input, and `to_kind` that of the parts."""

    scorer: Scorer
    kind: str
    to_kind: str
    schema: Any
    #: Type of the values of a row that is rejected.
    values_type: Any
    result_schema: Any
    batch_size: int
    skip: bool
    #: The folder of the parts.
    folder: Location
    #: Whether only the first part has the names of columns, as the parts of CSV are joined.
    joined: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """Rows that were read since the last message."""

    rows: int


@dataclass(frozen=True, slots=True)
class Done:
    """A fragment that is scored, and the files of its results and its rejected rows."""

    index: int
    rows: int
    rejected: int
    file: Location
    bytes: int
    rejected_file: Location | None


@dataclass(frozen=True, slots=True)
class Failed:
    """An error that ends the job: the name of its class, and the text."""

    kind: str
    text: str

    def error(self) -> Exception:
        """Returns the error."""
        kind = getattr(errors, self.kind, None)
        if isinstance(kind, type) and issubclass(kind, LayerserveError):
            return kind(self.text)
        return OSError(f"{self.kind}: {self.text}")


def main() -> None:
    """Answers until the parent closes the pipe, or ends."""
    replies = os.fdopen(os.dup(1), "wb")
    # What libraries print isn't a reply.
    os.dup2(2, 1)
    # Python's own standard output keeps what is printed until its buffer is full, and `_exit` loses it.
    sys.stdout = sys.stderr
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(sys.stdin.buffer, requests), daemon=True).start()
    task: Task = requests.get()
    work: _Work | None = None
    while True:
        fragment: Fragment = requests.get()
        try:
            work = work or _Work(task)
            for message in work.score(fragment):
                _send(replies, message)
        except Exception as error:
            _send(replies, Failed(type(error).__name__, str(error)))


def _receive(pipe: BinaryIO, requests: queue.SimpleQueue[Any]) -> None:
    while True:
        try:
            requests.put(pickle.load(pipe))
        except EOFError:
            # The parent has ended.
            os._exit(0)


def _send(replies: BinaryIO, message: object) -> None:
    pickle.dump(message, replies)
    replies.flush()


class _Work:
    """What a process needs for each fragment."""

    def __init__(self, task: Task) -> None:
        import pyarrow

        from layerserve.scoring.files.rows import Rows

        pyarrow.set_cpu_count(1)
        self._task = task
        self._rows = Rows(task.scorer, task.schema, task.kind)

    def score(self, fragment: Fragment) -> Iterator[Progress | Done]:
        """Writes the results of a fragment. Raises InvalidTensor for a bad row, unless such rows are skipped."""
        from layerserve.scoring.files.readers import Unreadable, read
        from layerserve.scoring.files.writers import writer

        task, rows = self._task, 0
        file = task.folder.child(f"{fragment.index}").temporary()
        header = not task.joined or fragment.index == 0
        with (
            _Rejected(task, fragment) as rejected,
            file.writing() as opened,
            writer(task.to_kind, opened, task.result_schema, header=header) as results,
        ):
            for piece in read(task.kind, fragment, task.schema, self._rows.columns, task.batch_size):
                if isinstance(piece, Unreadable):
                    rejected.add((piece.file, piece.row_group, piece.row), "", piece.reason, None, piece.count)
                    yield Progress(piece.count)
                    continue
                scored, bad = self._rows.score(piece.batch)
                for one in bad:
                    values = piece.batch.slice(one.index, 1)
                    rejected.add(piece.place(one.index), one.column, one.reason, values)
                if scored.num_rows:
                    same = scored.schema.equals(task.result_schema)
                    results.write(scored if same else scored.cast(task.result_schema))
                rows += scored.num_rows
                yield Progress(piece.batch.num_rows)
        yield Done(fragment.index, rows, rejected.rows, file, file.size() or 0, rejected.file)


class _Rejected:
    """Writes the rows of a fragment that can't be scored, and why, to a Parquet file; none without such rows."""

    #: Number of rows that are written at once.
    _HELD = 1024

    def __init__(self, task: Task, fragment: Fragment) -> None:
        import pyarrow

        self._skip = task.skip
        self._place = task.folder.child(f"{fragment.index}-rejected")
        self._held: list[dict[str, Any]] = []
        self._stack = ExitStack()
        self._writer: Any = None
        self._schema = pyarrow.schema(
            [
                ("file", pyarrow.string()),
                ("row_group", pyarrow.int32()),
                ("row", pyarrow.int64()),
                ("column", pyarrow.string()),
                ("reason", pyarrow.string()),
                ("values", task.values_type),
            ]
        )
        self.rows = 0
        self.file: Location | None = None

    def __enter__(self) -> _Rejected:
        return self

    def __exit__(self, *raised: object) -> None:
        if raised[0] is None and self._held:
            self._write()
        if self._writer is not None:
            self._writer.close()
        self._stack.close()

    def add(self, place: tuple[str, int | None, int], column: str, reason: str, values: Any, count: int = 1) -> None:
        """Adds a row, or `count` of them that can't be read. Raises InvalidTensor if rows aren't skipped."""
        file, group, row = place
        if not self._skip:
            where = file + (f", row group {group}" if group is not None else "") + f", row {row}"
            raise InvalidTensor(
                f"{where}{f', column {column!r}' if column else ''}: {reason}; --on-error skip writes such rows aside"
            )
        self.rows += max(1, count)
        if count > 1:
            reason = f"{count} rows from here on: {reason}"
        self._held.append(
            {"file": file, "row_group": group, "row": row, "column": column, "reason": reason, "values": values}
        )
        if len(self._held) >= self._HELD:
            self._write()

    def _write(self) -> None:
        import pyarrow
        from pyarrow import parquet

        if self._writer is None:
            self.file = self._place.temporary()
            self._writer = parquet.ParquetWriter(self._stack.enter_context(self.file.writing()), self._schema)
        columns = [
            pyarrow.array([one[field.name] for one in self._held], field.type) for field in list(self._schema)[:-1]
        ]
        rows = [one["values"] for one in self._held]
        fields = list(self._schema.field("values").type)
        arrays = [pyarrow.concat_arrays([_value(row, field) for row in rows]) for field in fields]
        missing = pyarrow.array([row is None for row in rows])
        columns.append(pyarrow.StructArray.from_arrays(arrays, fields=fields, mask=missing))
        self._writer.write_table(pyarrow.Table.from_arrays(columns, schema=self._schema))
        self._held = []


def values_type(schemas: Sequence[Any]) -> Any:
    """Returns a type for a row of any of the files. A column whose type differs between them is text."""
    import pyarrow

    first, *others = ({field.name: field.type for field in schema} for schema in schemas)
    return pyarrow.struct(
        [
            (name, kind if all(kind.equals(other.get(name, kind)) for other in others) else pyarrow.string())
            for name, kind in first.items()
        ]
    )


def _value(row: Any, field: Any) -> Any:
    """Returns a column of a row as an array of one element, null if it wasn't read."""
    import pyarrow

    if row is None or field.name not in row.schema.names:
        return pyarrow.nulls(1, field.type)
    value = row.column(field.name)
    if value.type.equals(field.type):
        return value
    (held,) = value.to_pylist()
    return pyarrow.array([None if held is None else str(held)], field.type)
