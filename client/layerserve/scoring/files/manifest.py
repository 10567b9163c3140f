"""The manifest of a result: what it is of, and which parts are done."""

from __future__ import annotations

import json
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from layerserve.errors import InvalidArgument
from layerserve.scoring.files.fragments import Source
from layerserve.scoring.files.locations import Location
from layerserve.scoring.scorer import Scorer

#: Writing takes at most this share of the time, whatever the number of parts.
_SHARE = 0.02


def job_facts(scorer: Scorer, source: Source, unreadable: Container[str], **options: Any) -> dict[str, Any]:
    """Returns what makes two jobs the same one, for JSON. `unreadable` has the names of files that can't be read."""
    return {
        "model": scorer.model,
        "version": scorer.version,
        "digest": scorer.digest,
        "computed by": scorer.engine,
        "outputs": [spec.name for spec in scorer.outputs],
        "columns": {spec.name: list(columns) for spec, columns in scorer.sources()},
        "keep": list(scorer.columns),
        **options,
        # A file that can't be read is one part. If it is several at the next start, all later parts have other numbers.
        "input": {file.name: [file.size, file.version, file.name not in unreadable] for file in source.files},
    }


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is done: its rows, the rows that were rejected, and the size of its file, in bytes."""

    rows: int
    rejected: int
    bytes: int


class Manifest:
    """Which parts of a job are done. It is written after them: what it doesn't name is computed again."""

    def __init__(self, location: Location, job: Mapping[str, Any]) -> None:
        self._location = location
        self._job = job
        self.parts: dict[int, Part] = {}
        #: Size of the file to which the parts were joined, in bytes; None if they weren't.
        self.joined_bytes: int | None = None
        self._written = self._took = 0.0

    def resume(self) -> None:
        """Reads what is done. Raises InvalidArgument if it is of another job, and names what differs."""
        try:
            document = json.loads(self._location.read())
            job, parts = dict(document["job"]), document["parts"]
            self.parts = {int(index): Part(*map(int, numbers)) for index, numbers in parts.items()}
            self.joined_bytes = document["joined_bytes"]
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InvalidArgument(
                f"--resume: {self._location.url!r} is damaged; pass --overwrite to start again"
            ) from None
        for name, value in json.loads(json.dumps(self._job)).items():
            if job.get(name) != value:
                raise InvalidArgument(
                    f"--resume: {_difference(name, job.get(name), value)}; pass the same, or --overwrite to start again"
                )

    def add(self, index: int, part: Part) -> None:
        """Adds a part."""
        self.parts[index] = part
        if time.monotonic() - self._written >= self._took / _SHARE:
            self.write()

    def write(self, *, complete: bool = False, joined_bytes: int | None = None) -> None:
        """Writes the manifest."""
        start = time.monotonic()
        parts = {str(index): [part.rows, part.rejected, part.bytes] for index, part in sorted(self.parts.items())}
        document = {"job": self._job, "complete": complete, "joined_bytes": joined_bytes, "parts": parts}
        self._location.write(json.dumps(document).encode())
        self._written = time.monotonic()
        self._took = self._written - start


def _difference(name: str, was: Any, now: Any) -> str:
    if name != "input" or not isinstance(was, dict):
        return f"got {name} {now!r}, but the result is of {name} {was!r}"
    both = now.keys() & was.keys()
    for what, names in (
        ("has new files", now.keys() - was.keys()),
        ("lacks files", was.keys() - now.keys()),
        ("has changed files", {file for file in both if now[file][:2] != was[file][:2]}),
        ("has files that can be read now, and couldn't before", {file for file in both if now[file][2] > was[file][2]}),
        ("has files that can't be read any more", {file for file in both if now[file][2] < was[file][2]}),
    ):
        if names:
            return f"the input {what}: {', '.join(sorted(names)[:5])}"
    return "the files of the input are in another order"
