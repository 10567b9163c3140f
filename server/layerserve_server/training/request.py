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


@dataclass(frozen=True, slots=True)
class DataArray:
    """One array: what for, for which input or output, element type, whole shape with rows first."""

    role: Role
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def held_dtype(self) -> np.dtype[Any]:
        """How it is kept: NumPy has no bfloat16, so such an array is kept as float32."""
        return np.dtype("float32" if self.dtype == "bfloat16" else self.dtype)

    @property
    def held_bytes(self) -> int:
        """What it takes on the disk, in bytes."""
        return math.prod(self.shape) * self.held_dtype.itemsize

    @property
    def rows(self) -> int:
        """Length of the first axis."""
        return self.shape[0]

    def label(self) -> str:
        """Words for messages: "y 'main_output'"."""
        return f"{self.role.value} '{self.name}'" if self.name else self.role.value


@dataclass(frozen=True, slots=True)
class RunRequest:
    """How to train, with every default filled in."""

    model: str
    version: int
    data: tuple[DataArray, ...]
    #: What Keras's `compile` takes, by argument; only what was given.
    compile: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 1
    batch_size: int = 32
    shuffle: bool = True
    seed: int = 0
    validation_split: float = 0.0
    class_weight: Mapping[int, float] | None = None
    publish: bool = True
    publish_label: str = ""
    description: str = ""
    #: Threads that the run computes with, and how far it stands back (nice).
    threads: int = 1
    nice: int = 10

    @property
    def data_bytes(self) -> int:
        """What all arrays take, in bytes."""
        return sum(array.held_bytes for array in self.data)

    def write(self, folder: Path) -> None:
        """Keeps the request in a run's folder."""
        (folder / REQUEST).write_text(json.dumps(asdict(self), indent=1), "utf-8")

    @classmethod
    def read(cls, folder: Path) -> RunRequest:
        """The request of a run's folder. Raises OSError, and ValueError or TypeError for a file that isn't one."""
        values = json.loads((folder / REQUEST).read_text("utf-8"))
        values["data"] = tuple(
            DataArray(Role(one["role"]), one["name"], one["dtype"], tuple(one["shape"])) for one in values["data"]
        )
        if values["class_weight"] is not None:
            values["class_weight"] = {int(key): weight for key, weight in values["class_weight"].items()}
        return cls(**values)
