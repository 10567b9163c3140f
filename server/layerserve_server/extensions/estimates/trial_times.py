"""Times of a trial of a run, as its process writes them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from layerserve_server.disk import json_object, replace_file

#: Name of the file in the trial's folder.
TIMES = "times.json"
#: Option of a trial's request: the time after which it ends, in seconds.
OPTION = "trial_seconds"


@dataclass(frozen=True, slots=True)
class Lap:
    """A part of a trial: what was done, the seconds it took, and how much the callbacks' files have grown, in bytes.

    `what` is "step", "short step" (of fewer rows), "test" (a step of validation), "around tests" or "end of epoch".
    With `saved`, a checkpoint was written meanwhile.
    """

    what: str
    seconds: float
    bytes: int = 0
    saved: bool = False


@dataclass(slots=True)
class TrialTimes:
    """Laps of a trial in their order; times of its beginning and end, on the clock of `time.monotonic`."""

    began: float = 0.0
    ended: float = 0.0
    laps: list[Lap] = field(default_factory=list)
    trainable: int = 0
    non_trainable: int = 0
    #: Size of the largest file of callbacks, in bytes.
    largest_file: int = 0

    def write(self, folder: Path) -> None:
        """Writes the times to a trial's folder. Raises OSError."""
        replace_file(folder / TIMES, json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> TrialTimes | None:
        """Reads the times of a trial's folder; None if the trial ended before its last step."""
        try:
            values = json_object((folder / TIMES).read_bytes())
        except FileNotFoundError:
            return None
        return cls(**{**values, "laps": [Lap(**lap) for lap in values["laps"]]})
