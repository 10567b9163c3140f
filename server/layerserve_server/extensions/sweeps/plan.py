"""What a sweep does, as plain data stored in its folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

from layerserve_server.disk import json_object, replace_file
from layerserve_server.extensions.sweeps.space import Dimension
from layerserve_server.records import Int32, checked

#: Name of the file in a sweep's folder.
PLAN = "plan.json"


class Method(str, Enum):
    """How the settings of trials are chosen."""

    RANDOM = "random"
    GRID = "grid"


@dataclass(frozen=True, slots=True)
class Plan:
    """The search of a sweep. `trials` is their number, and `parallel` the maximum number at a time."""

    dimensions: tuple[Dimension, ...]
    method: Method
    trials: Int32
    parallel: Int32
    seed: int
    #: Name of the log that decides, and its direction.
    monitor: str
    larger_is_better: bool

    def is_better(self, value: float, than: float) -> bool:
        """Whether a value of the log is better than another."""
        return value > than if self.larger_is_better else value < than

    def write(self, folder: Path) -> None:
        """Writes the plan to a sweep's folder. Raises OSError."""
        replace_file(folder / PLAN, json.dumps(asdict(self)), flushed=True)

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Reads the plan of a sweep's folder. Raises OSError, and ValueError or TypeError if the file is invalid."""
        values = json_object((folder / PLAN).read_text("utf-8"))
        dimensions = tuple(Dimension(**{**one, "values": tuple(one["values"])}) for one in values["dimensions"])
        return checked(cls(**{**values, "dimensions": dimensions, "method": Method(values["method"])}))
