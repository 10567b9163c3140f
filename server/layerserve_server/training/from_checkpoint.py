"""Runs that go on from a checkpoint of another run: what they take over, and how they begin."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layergraph.archive.finding import find_model
from layergraph.errors import LayerGraphError
from layerserve.training.options.contract import COMPILE, RUN

from layerserve_server.errors import InvalidRequestError, UnknownCheckpointError, safe_text
from layerserve_server.repository.publishing import link_file
from layerserve_server.training.budget import folder_bytes
from layerserve_server.training.request import EVALUATION, REQUEST, Role, RunRequest
from layerserve_server.training.run_folder.checkpoints import LAST_NAME, SUFFIX, Checkpoint, KeptCheckpoints
from layerserve_server.training.run_folder.digests import data_identity, same_data
from layerserve_server.training.run_folder.layout import BASE, DIGESTS, KEPT, START

#: Options that a run takes over from its parent, but that don't change what its steps compute.
NEUTRAL = frozenset({"monitor", "monitor_mode", "format", "on_nan", "workers"})
#: Options that an evaluation takes over: the model's weights, and which layers' penalties count, depend on them.
EVALUATED = ("freeze", "lora")
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
    def run(self) -> str:
        """Id of the run."""
        return self.folder.name

    @property
    def name(self) -> str:
        """The checkpoint as text: "RUN/CHECKPOINT"."""
        return f"{self.run}/{self.checkpoint.id}"

    @property
    def base(self) -> Path:
        """Folder with the files of the version that the run started from."""
        return self.folder / BASE

    @property
    def model(self) -> Path:
        """The model file of that version. Raises UnknownCheckpointError if it was removed."""
        try:
            return find_model(self.base)
        except LayerGraphError as error:
            raise self._removed from error

    @property
    def bytes(self) -> int:
        """Size of the files that a new run gets, in bytes."""
        return folder_bytes(self.base) + self.checkpoint.bytes

    @property
    def _removed(self) -> UnknownCheckpointError:
        return UnknownCheckpointError(f"checkpoint '{self.name}' was removed")

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
        except (FileNotFoundError, shutil.Error) as error:
            raise self._removed from error

    def taken_over(self, kind: str, roles: Collection[Role]) -> dict[str, Any]:
        """Returns the options that a new run of a kind, with arrays of these roles, has of this run by default."""
        if kind == EVALUATION:
            return {name: getattr(self.request, name) for name in EVALUATED}
        excluded = set()
        if any(role.validation for role in roles):
            excluded.add("validation_split")
        if Role.SAMPLE_WEIGHT in roles:
            excluded.add("class_weight")
        return {name: getattr(self.request, name) for name in CONTINUED if name not in excluded}


def merged(before: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arguments of `compile`: `given`, and the others of `before`.

    Loss weights and metrics of before belong to its loss, so a new loss starts without them.
    """
    names = [option.name for option in COMPILE]
    if "loss" in given:
        names = ["optimizer"]
    return {**{name: before[name] for name in names if name in before}, **given}


def differences(folder: Path, request: RunRequest) -> list[str]:
    """Returns in what the run in `folder` differs from the one whose checkpoint it begins with, as texts.

    Empty if it goes on with the same data and settings. Raises DAMAGED if the request is damaged.
    """
    start = folder / START
    parent = RunRequest.read(start)
    found = [name for name in CONTINUED if name not in NEUTRAL and _plain(parent, name) != _plain(request, name)]
    for option in COMPILE:
        if parent.compile.get(option.name) != request.compile.get(option.name):
            found.append(option.name)
    if not same_data(data_identity(start, parent), data_identity(folder, request)):
        found.append("data")
    return found


def _plain(request: RunRequest, name: str) -> Any:
    """Returns an option as JSON has it: tuples as lists, and keys as text."""
    return json.loads(json.dumps(getattr(request, name)))
