"""The checkpoints that a run keeps: a file each in its folder, with a note beside it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from layerserve_server.disk import json_object, sync
from layerserve_server.errors import UnknownCheckpointError, safe_text
from layerserve_server.records import Int32, Time, checked
from layerserve_server.repository.publishing import link_file

#: Id of a checkpoint: after an epoch, or after a step of one; both count from 1.
CHECKPOINT_ID = re.compile(r"e[1-9][0-9]{0,9}(s[1-9][0-9]{0,18})?")
SUFFIX = ".ckpt"
#: Names of files here, also of unfinished ones.
FILE = re.compile(rf"\.?{CHECKPOINT_ID.pattern}\.(ckpt|json)(\.[0-9a-f]+\.part)?")
#: Names that stand for the best checkpoint and the newest.
BEST_NAME, LAST_NAME = "best", "last"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The note of a checkpoint: its position, its size in bytes, the Unix time in seconds, and the logs there.

    `epoch` counts from 1; `step` is the number of its steps that are done, 0 after its end.
    """

    id: str
    epoch: Int32
    step: int
    bytes: int
    time: Time
    logs: Mapping[str, float] = field(default_factory=dict)
    #: The value of the monitored log, negated if small values are better; None if it has none, or within an epoch.
    score: float | None = None
    #: Whether it is due by the number of epochs or steps, not only for its score.
    periodic: bool = False

    @property
    def place(self) -> tuple[int, float]:
        """Sorts checkpoints of a run in the order in which they are reached."""
        return self.epoch, self.step or math.inf

    @property
    def rank(self) -> tuple[float, int]:
        """Sorts checkpoints with a score, the best first; of equal ones the earliest."""
        return -(self.score or 0.0), self.epoch


def checkpoint_id(epoch: int, step: int) -> str:
    """Returns the id of the checkpoint after a step of an epoch, or after its end for step 0."""
    return f"e{epoch}s{step}" if step else f"e{epoch}"


class KeptCheckpoints:
    """The checkpoints in a folder. A note is written after its file and removed before it, each in one step.

    So whatever is killed, a checkpoint that is listed is complete. Any process may list them at any time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, id: str) -> Path:
        """Returns the path of a checkpoint's file."""
        return self.folder / f"{id}{SUFFIX}"

    def list(self) -> list[Checkpoint]:
        """Returns the checkpoints, in the order of training. Those that aren't complete are left out."""
        found = [self._read(note) for note in self.folder.glob("*.json")]
        return sorted((one for one in found if one is not None), key=lambda one: one.place)

    def _read(self, note: Path) -> Checkpoint | None:
        try:
            one = checked(Checkpoint(**json_object(note.read_text("utf-8"))))
            whole = self.path(one.id).stat().st_size == one.bytes
        except (OSError, ValueError, TypeError):
            return None
        return one if whole and note.stem == one.id and CHECKPOINT_ID.fullmatch(one.id) else None

    def find(self, name: str) -> Checkpoint:
        """Returns the checkpoint of an id, or of the name "best" or "last". Raises UnknownCheckpointError."""
        known = self.list()
        if name == LAST_NAME and known:
            return known[-1]
        if name == BEST_NAME and (best := best_of(known)):
            return best[0]
        for one in known:
            if one.id == name:
                return one
        kept = ", ".join(one.id for one in known[-10:]) or "none"
        raise UnknownCheckpointError(f"no checkpoint '{safe_text(name, 80)}' is kept; kept are: {kept}")

    def put(self, checkpoint: Checkpoint, source: Path) -> None:
        """Keeps a file as a checkpoint, by a hard link if possible. Replaces one of the same id. Raises OSError."""
        self.folder.mkdir(exist_ok=True)
        self._replace(self.path(checkpoint.id), lambda part: link_file(source, part))
        note = json.dumps(asdict(checkpoint))
        self._replace(self._note(checkpoint.id), lambda part: part.write_text(note, "utf-8"))

    def _replace(self, path: Path, write: Callable[[Path], object]) -> None:
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        try:
            write(part)
            sync(part)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        sync(self.folder)

    def remove(self, id: str) -> None:
        """Removes a checkpoint, if it is there. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            self._note(id).unlink()
            sync(self.folder)
        self.path(id).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes what a killed process has left. Only while no process adds checkpoints. Raises OSError.

        Other files stay: the folder may be a link to one that has more in it.
        """
        known = {f"{one.id}{suffix}" for one in self.list() for suffix in (SUFFIX, ".json")}
        with contextlib.suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                if path.name not in known and FILE.fullmatch(path.name):
                    path.unlink()

    def _note(self, id: str) -> Path:
        return self.folder / f"{id}.json"


def best_of(checkpoints: Iterable[Checkpoint]) -> Sequence[Checkpoint]:
    """Returns those with a score, the best first."""
    return sorted((one for one in checkpoints if one.score is not None), key=lambda one: one.rank)
