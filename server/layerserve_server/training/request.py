"""The request of a run, as plain data stored in its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from layerserve.training.options.contract import RUN, Budget, RunOptions, View
from layerserve.training.options.kinds import Number
from layerserve.values.table_files.table import FileArray, Selection
from layerserve.values.tensors import NUMPY_DTYPES

from layerserve_server.datasets.data_file import DataFile
from layerserve_server.disk import json_object
from layerserve_server.records import Int32, checked

#: Name of the file in the run's folder.
REQUEST = "request.json"
#: Names of the kinds of runs that have their data in the request. Extensions add others (see `run_kind`).
TRAINING, EVALUATION = "training", "evaluation"


class Role(str, Enum):
    """Role of a data array."""

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
        """The corresponding training role: X, Y or SAMPLE_WEIGHT."""
        return Role(self.value.removeprefix("validation_"))


@dataclass(frozen=True, slots=True)
class DataArray:
    """An array of a run's data: role, name of the input or output, dtype, and shape with rows first.

    It is sent with the request, or read of a `file`: then its dtype and shape are known once the file is described.
    """

    role: Role
    name: str
    dtype: str
    shape: tuple[int, ...]
    file: DataFile | None = None
    #: What is read of the file: what the request says, and once it is described, the columns.
    selection: Selection = field(default_factory=Selection)
    #: Whether the array is memory-mapped from its file, without a copy in the run's folder.
    mapped: bool = False

    @property
    def in_file(self) -> FileArray:
        """The array in its file, once that is described."""
        return FileArray(self.dtype, self.shape, self.selection.columns, self.selection.fill, self.mapped)

    @property
    def held_dtype(self) -> np.dtype[Any]:
        """NumPy dtype of its elements in memory: float32 for bfloat16, which NumPy doesn't have, `bytes` for text."""
        return NUMPY_DTYPES[self.dtype]

    @property
    def is_text(self) -> bool:
        """Whether its elements are text, whose size isn't known from the shape."""
        return self.dtype == "string"

    @property
    def held_bytes(self) -> int:
        """Size of all elements as stored, in bytes; of text only the positions."""
        return math.prod(self.shape) * self.held_dtype.itemsize

    @property
    def stays_in_file(self) -> bool:
        """Whether it is read where it lies: mapped, or by row groups."""
        return self.mapped or (self.file is not None and self.file.is_parquet)

    @property
    def kept_bytes(self) -> int:
        """Size in the run's folder, in bytes; 0 if it stays in its file."""
        return 0 if self.stays_in_file else self.held_bytes

    @property
    def rows(self) -> int:
        """Length of the first axis."""
        return self.shape[0]

    def label(self) -> str:
        """Returns the array's name in error texts: "y 'main_output'"."""
        return f"{self.role.value} '{self.name}'" if self.name else self.role.value


@dataclass(frozen=True, slots=True)
class RunRequest(RunOptions):
    """A request of a run: the client's options, and the fields that the server adds."""

    model: str
    version: int
    data: tuple[DataArray, ...]
    #: Given arguments of Keras's `compile`, by name.
    compile: Mapping[str, Any] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    #: Name of its kind.
    kind: str = TRAINING
    #: Options that only its kind has, if that is one of an extension, which reads them.
    kind_options: Mapping[str, Any] = field(default_factory=dict)
    #: Number of compute threads, divided among the workers.
    threads: int = 1
    #: torch device.
    device: str = "cpu"
    #: Niceness of the run's processes.
    nice: int = 10
    #: Whether an evaluation writes the loss of each row to a file.
    sample_losses: bool = False
    #: Name of the caller, by its token or certificate; empty for a caller without one.
    caller: str = ""
    #: Names or patterns of the callers that the model was open to when the run began; None for all, empty if that isn't
    #: known.
    callers: tuple[str, ...] | None = None
    #: Which rows are used.
    view: View = field(default_factory=View)
    #: Id of work of an extension that the run is a part of, which publishes the result; and number of the part.
    part_of: str = ""
    part: Int32 = 0
    # Options with a default that the server sets.
    seed: int = field(default=0, kw_only=True)
    checkpoint_seconds: float = field(default=60.0, kw_only=True)

    @property
    def trains(self) -> bool:
        """Whether it changes weights. All kinds of runs but an evaluation do."""
        return self.kind != EVALUATION

    @property
    def has_data(self) -> bool:
        """Whether its data is part of the request. Runs of extensions get theirs in other ways."""
        return self.kind in (TRAINING, EVALUATION)

    @property
    def sent_bytes(self) -> int:
        """Size of the data that the client uploads, in bytes."""
        return sum(array.held_bytes for array in self.data if array.file is None)

    @property
    def kept_bytes(self) -> int:
        """Size of all arrays in the run's folder, in bytes."""
        return sum(array.kept_bytes for array in self.data)

    @property
    def validates(self) -> bool:
        """Whether there is validation data."""
        own = any(array.role.validation for array in self.data)
        return own or bool(self.validation_split) or bool(self.view.validate_on)

    def write(self, folder: Path) -> None:
        """Writes the request to a run's folder. Raises OSError."""
        (folder / REQUEST).write_text(self.to_json(), "utf-8")

    @classmethod
    def read(cls, folder: Path) -> RunRequest:
        """Reads the request of a run's folder. Raises OSError, and ValueError or TypeError if the file is invalid."""
        return cls.from_json((folder / REQUEST).read_text("utf-8"))

    def to_json(self) -> str:
        """Returns the request as JSON."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> RunRequest:
        """Parses a request from JSON. Raises ValueError or TypeError if the text is invalid."""
        values = json_object(text)
        values["data"] = tuple(_array(one) for one in values["data"])
        values["budget"] = Budget(**values.get("budget", {}))
        values["view"] = View(**values.get("view", {}))
        for name in ("freeze", "callbacks"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        # A run that has lost its owner or restriction isn't open to others.
        callers = values.get("callers", ()) if "caller" in values else ()
        values["callers"] = None if callers is None else tuple(callers)
        if values["class_weight"] is not None:
            values["class_weight"] = {int(key): weight for key, weight in values["class_weight"].items()}
        request = checked(cls(**values))
        for one in RUN:
            value = getattr(request, one.name)
            if isinstance(one.kind, Number) and value != one.default:
                one.kind.encode(one.name, value)
        return request


def _array(values: dict[str, Any]) -> DataArray:
    file, selection = values.get("file"), values.get("selection", {})
    return DataArray(
        **{
            **values,
            "role": Role(values["role"]),
            "shape": tuple(values["shape"]),
            "file": None if file is None else DataFile(**{**file, "stamp": tuple(file["stamp"])}),
            "selection": Selection(**{**selection, "columns": tuple(selection.get("columns", ()))}),
        }
    )
