"""What calls of ManagementService have set for a model: kept in a file beside its versions, as labels are.

The file, serving.json, has up to five values:

    pinned     version that answers requests that name none
    loaded     whether the model was last loaded (true) or unloaded (false) by a call
    canary     share of callers that get the canary, from 0 to 1, in place of that in the model's settings
    policy     version policy, in place of that in the model's settings: `version_policy` and what belongs to it
    highest    highest version number that was deleted, so that no later version gets it again
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from layerserve_server.repository.publishing import change_json, read_json
from layerserve_server.repository.version_policy import VersionPolicy

#: File beside the version folders.
CONTROL: Final = "serving.json"


@dataclass(frozen=True, slots=True)
class Control:
    """The content of the file. None means that no call has set it."""

    pinned: int | None = None
    loaded: bool | None = None
    highest: int = 0
    canary: float | None = None
    policy: VersionPolicy | None = None


def read_control(folder: Path) -> Control:
    """Returns what is set for the model in a folder. Values that are invalid count as not set."""
    values = read_json(folder, CONTROL)
    pinned, loaded, highest, policy = (values.get(name) for name in ("pinned", "loaded", "highest", "policy"))
    return Control(
        pinned=_version(pinned),
        loaded=loaded if isinstance(loaded, bool) else None,
        highest=_version(highest) or 0,
        canary=_share(values.get("canary")),
        policy=VersionPolicy.read(policy) if isinstance(policy, dict) else None,
    )


def write_control(folder: Path, **values: Any) -> None:
    """Sets values, atomically; None removes one. Raises OSError on failure, and then leaves the file unchanged."""

    def changed(before: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in {**before, **values}.items() if value is not None}

    folder.mkdir(parents=True, exist_ok=True)
    change_json(folder, CONTROL, lambda: changed(read_json(folder, CONTROL)))


def _version(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _share(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and 0 <= value <= 1 else None
