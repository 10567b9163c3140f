"""What a training run is asked to do, as plain data that its folder keeps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from layerserve.options.training import Budget, RunOptions

#: Name of the file in the run's folder.
REQUEST = "request.json"


class Role(str, Enum):
    """What an array is used for."""

    X = "x"
    Y = "y"
    SAMPLE_WEIGHT = "sample_weight"
    VALIDATION_X = "validation_x"
    VALIDATION_Y = "validation_y"
    VALIDATION_SAMPLE_WEIGHT = "validation_sample_weight"

    @property
    def validation(self) -> bool:
        """Whether it belongs to the validation data."""
        return self.value.startswith("validation_")

    @property
    def use(self) -> Role:
        """The role without regard to validation: X, Y or SAMPLE_WEIGHT."""
        return Role(self.value.removeprefix("validation_"))


class Kind(str, Enum):
    """What a run does."""

    TRAINING = "training"
    EVALUATION = "evaluation"


@dataclass(frozen=True, slots=True)
class DataArray:
    """One array: what for, for which input or output, element type, whole shape with rows first.

    With a `path` it isn't sent but lies in a file below the data root, of which `key` picks it.
    """

    role: Role
    name: str
    dtype: str
    shape: tuple[int, ...]
    path: str = ""
    key: str = ""
    #: Whether the file's bytes can be mapped as they are, so that nothing of it is kept in the run's folder.
    mapped: bool = False
    #: Size in bytes and mtime in nanoseconds that the file had when the request was accepted.
    stamp: tuple[int, ...] = ()

    @property
    def held_dtype(self) -> np.dtype[Any]:
        """How it is kept: NumPy has no bfloat16, so such an array is kept as float32."""
        return np.dtype("float32" if self.dtype == "bfloat16" else self.dtype)

    @property
    def held_bytes(self) -> int:
        """What all its elements take, in bytes."""
        return math.prod(self.shape) * self.held_dtype.itemsize

    @property
    def kept_bytes(self) -> int:
        """What it takes in the run's folder, in bytes."""
        return 0 if self.mapped else self.held_bytes

    @property
    def rows(self) -> int:
        """Length of the first axis."""
        return self.shape[0]

    def label(self) -> str:
        """Words for messages: "y 'main_output'"."""
        return f"{self.role.value} '{self.name}'" if self.name else self.role.value


@dataclass(frozen=True, slots=True)
class RunRequest(RunOptions):
    """How to train or to evaluate: the options, and what the server adds to them."""

    model: str
    version: int
    data: tuple[DataArray, ...]
    #: What Keras's `compile` takes, by argument; only what was given.
    compile: Mapping[str, Any] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    kind: Kind = Kind.TRAINING
    #: Threads that the run computes with, shared out between its workers; the device of torch; how far it stands back.
    threads: int = 1
    device: str = "cpu"
    nice: int = 10
    #: Folder that the paths of data are below.
    data_root: str = ""
    # Options that the server fills in where they aren't given.
    seed: int = field(default=0, kw_only=True)
    checkpoint_seconds: float = field(default=60.0, kw_only=True)

    @property
    def sent_bytes(self) -> int:
        """What the client sends, in bytes."""
        return sum(array.held_bytes for array in self.data if not array.path)

    @property
    def kept_bytes(self) -> int:
        """What all arrays take in the run's folder, in bytes."""
        return sum(array.kept_bytes for array in self.data)

    @property
    def validates(self) -> bool:
        """Whether there is validation data."""
        return bool(self.validation_split) or any(array.role.validation for array in self.data)

    def write(self, folder: Path) -> None:
        """Keeps the request in a run's folder."""
        (folder / REQUEST).write_text(self.to_json(), "utf-8")

    @classmethod
    def read(cls, folder: Path) -> RunRequest:
        """The request of a run's folder. Raises OSError, and ValueError or TypeError for a file that isn't one."""
        return cls.from_json((folder / REQUEST).read_text("utf-8"))

    def to_json(self) -> str:
        """The request as text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> RunRequest:
        """The request of such a text. Raises ValueError or TypeError for any other."""
        values = _renamed(json.loads(text))
        values["data"] = tuple(_array(one) for one in values["data"])
        values["kind"] = Kind(values.get("kind", Kind.TRAINING))
        values["budget"] = Budget(**values.get("budget", {}))
        for name in ("freeze", "unfreeze", "callbacks"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        if values["class_weight"] is not None:
            values["class_weight"] = {int(key): weight for key, weight in values["class_weight"].items()}
        return cls(**values)


def _renamed(values: dict[str, Any]) -> dict[str, Any]:
    """A request of a folder that an earlier server wrote, by today's names."""
    if values.pop("publish_best", False) and values["publish"]:
        values["publish"] = "best"
    if "stop_on_nan" in values:
        values["on_nan"] = "stop" if values.pop("stop_on_nan") else "continue"
    if "budget" in values:
        values["budget"] = {f"max_{name.removeprefix('max_')}": value for name, value in values["budget"].items()}
    return values


def _array(values: dict[str, Any]) -> DataArray:
    sequences = {"shape": tuple(values["shape"]), "stamp": tuple(values.get("stamp", ()))}
    return DataArray(**{**values, "role": Role(values["role"]), **sequences})
