"""Runs that go on from a checkpoint of another run: what they take over, and how they begin."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from layerserve.options.training import COMPILE, RUN

from layerserve_server.disk import sync
from layerserve_server.errors import InvalidRequestError, UnknownCheckpointError, safe_text
from layerserve_server.repository.publishing import link_file
from layerserve_server.training.request import REQUEST, RunRequest
from layerserve_server.training.runs.checkpoints import LAST_NAME, SUFFIX, Checkpoint, KeptCheckpoints
from layerserve_server.training.runs.folder import BASE, DIGESTS, KEPT, START

#: Options that a run takes over from its parent, but that don't change what its steps compute.
NEUTRAL = frozenset({"monitor", "monitor_mode", "format", "on_nan", "workers"})
CONTINUED = tuple(option.name for option in RUN if option.continues)
#: Name of the checkpoint's file in the folder of the run that begins with it.
STATE = f"state{SUFFIX}"


def parsed(text: str) -> tuple[str, str]:
    """Returns the ids in "RUN/CHECKPOINT"; the checkpoint is "last" by default. Raises InvalidRequestError."""
    run, _, checkpoint = text.partition("/")
    if not run or "/" in checkpoint:
        raise InvalidRequestError(
            f"from_checkpoint: got '{safe_text(text, 80)}', expected RUN/CHECKPOINT, RUN/best, RUN/last or RUN"
        )
    return run, checkpoint or LAST_NAME


@dataclass(frozen=True, slots=True)
class Start:
    """A checkpoint of a run, in whose folder it is."""

    folder: Path
    checkpoint: Checkpoint
    request: RunRequest

    @classmethod
    def find(cls, folder: Path, request: RunRequest, name: str) -> Start:
        """Finds a checkpoint in the folder of a run with this request. Raises UnknownCheckpointError."""
        return cls(folder, KeptCheckpoints(folder / KEPT).find(name), request)

    @property
    def name(self) -> str:
        """The checkpoint as text: "RUN/CHECKPOINT"."""
        return f"{self.folder.name}/{self.checkpoint.id}"

    @property
    def base(self) -> Path:
        """Folder with the files of the version that the run started from."""
        return self.folder / BASE

    @property
    def file(self) -> Path:
        """The checkpoint's file."""
        return KeptCheckpoints(self.folder / KEPT).path(self.checkpoint.id)

    def copy(self, folder: Path) -> None:
        """Copies what a new run needs to its folder. Raises UnknownCheckpointError if it is gone, or OSError."""
        start = folder / START
        try:
            shutil.copytree(self.base, folder / BASE, dirs_exist_ok=True)
            start.mkdir()
            link_file(self.file, start / STATE)
            for name in (REQUEST, DIGESTS):
                if (self.folder / name).exists():
                    shutil.copyfile(self.folder / name, start / name)
        except FileNotFoundError as error:
            raise UnknownCheckpointError(f"checkpoint '{self.name}' was removed") from error

    def options(self, given: Mapping[str, Any], compile: Mapping[str, Any], *, validates: bool) -> dict[str, Any]:
        """Returns the options of a run that goes on here: `given`, and the others of this run.

        `validates` is whether the new run has its own validation data.
        """
        own = {name: getattr(self.request, name) for name in CONTINUED}
        if validates:
            own.pop("validation_split")
        return {**own, **given, "compile": merged(self.request.compile, compile), "from_checkpoint": self.name}


def merged(before: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arguments of `compile`: `given`, and the others of before. A new loss starts without metrics and weights."""
    names = [option.name for option in COMPILE]
    if "loss" in given:
        names = ["optimizer"]
    return {**{name: before[name] for name in names if name in before}, **given}


def differences(folder: Path, request: RunRequest) -> list[str]:
    """Returns in what the run in `folder` differs from the one whose checkpoint it begins with, as texts.

    Empty if it goes on with the same data and settings. Raises OSError, ValueError or TypeError if a file is damaged.
    """
    start = folder / START
    parent = RunRequest.read(start)
    found = [name for name in CONTINUED if name not in NEUTRAL and _plain(parent, name) != _plain(request, name)]
    for option in COMPILE:
        if parent.compile.get(option.name) != request.compile.get(option.name):
            found.append(option.name)
    if not _same_data(data_identity(start, parent), data_identity(folder, request)):
        found.append("data")
    return found


def _plain(request: RunRequest, name: str) -> Any:
    """Returns an option as JSON has it: tuples as lists, and keys as text."""
    return json.loads(json.dumps(getattr(request, name)))


def data_identity(folder: Path, request: RunRequest) -> list[dict[str, Any] | None]:
    """Returns what identifies the content of each array of a run; None for one that has no digest."""
    try:
        digests = json.loads((folder / DIGESTS).read_text("utf-8"))
    except FileNotFoundError:
        digests = {}
    found: list[dict[str, Any] | None] = []
    for index, array in enumerate(request.data):
        digest = digests.get(str(index))
        known = digest is not None or bool(array.stamp)
        found.append({**asdict(array), "sha256": digest} if known else None)
    return found


def _same_data(before: list[dict[str, Any] | None], after: list[dict[str, Any] | None]) -> bool:
    return before == after and None not in before


def write_digests(folder: Path, digests: Mapping[int, str]) -> None:
    """Writes the SHA-256 digests of the arrays that a run has received. Raises OSError."""
    path = folder / DIGESTS
    path.write_text(json.dumps({str(index): digest for index, digest in digests.items()}), "utf-8")
    sync(path)
