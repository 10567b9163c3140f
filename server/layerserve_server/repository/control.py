"""What calls of ManagementService have set for a model: kept in a file beside its versions, as labels are.

The file, serving.json, has up to six values:

    pinned     version that answers requests that name none
    loaded     whether the model was last loaded (true) or unloaded (false) by a call
    canary     share of callers that get the canary, from 0 to 1, in place of that in the model's settings
    policy     version policy, in place of that in the model's settings: `version_policy` and what belongs to it
    highest    highest version number that was deleted, so that no later version gets it again
    deleted    highest version number when the model was deleted: runs that began with it, or one below, publish nothing
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from layerserve_server.errors import ModelGoneError
from layerserve_server.repository.layout import SUFFIXES
from layerserve_server.repository.publishing import UnreadableFileError, change_json, read_json, version_numbers
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
    deleted: int = 0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Control:
        """Returns what the values of the file set. Raises ValueError with the name of an invalid one."""
        found: dict[str, Any] = {}
        for name, (read, expected) in _VALUES.items():
            if (value := values.get(name)) is None:
                continue
            if (found_value := read(value)) is None:
                raise ValueError(f"{name}: got {value!r:.80}, expected {expected}")
            found[name] = found_value
        return cls(**found)

    def as_json(self) -> dict[str, Any]:
        """Returns the values that are set, as in the file."""
        policy = None if self.policy is None else self.policy.as_json()
        values = {**asdict(self), "policy": policy, "highest": self.highest or None, "deleted": self.deleted or None}
        return {name: value for name, value in values.items() if value is not None}


def read_control(folder: Path) -> Control:
    """Returns what is set for the model in a folder. Raises UnreadableFileError."""
    return control_in(read_json(folder, CONTROL))


def control_in(values: Mapping[str, Any]) -> Control:
    """Returns what the values of a file set. Raises UnreadableFileError if one is invalid."""
    try:
        return Control.of(values)
    except ValueError as error:
        raise UnreadableFileError(f"{CONTROL}: {error}") from error


def write_control(folder: Path, **values: Any) -> None:
    """Sets values, atomically; None removes one. Raises OSError on failure, and then leaves the file unchanged."""

    def changed(before: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in {**before, **values}.items() if value is not None}

    folder.mkdir(parents=True, exist_ok=True)
    change_json(folder, CONTROL, lambda: changed(read_control(folder).as_json()))


def check_there(root: Path, name: str, base_version: int) -> None:
    """Raises ModelGoneError if the model in a repository isn't the one that a run has begun with, with this version.

    Raises OSError if that isn't known.
    """
    folder = root / name
    files = (root / f"{name}{suffix}" for suffix in SUFFIXES)
    there = (folder.is_dir() and version_numbers(folder)) or any(file.is_file() for file in files)
    check_not_deleted(name, base_version, read_control(folder) if there else None)


def check_not_deleted(name: str, base_version: int, control: Control | None) -> None:
    """Raises ModelGoneError if a model, of which calls have set `control`, was deleted since it had a version.

    None stands for a model that isn't there.
    """
    if control is None or control.deleted >= base_version:
        again = "" if control is None else ", and another one has its name"
        raise ModelGoneError(
            f"model '{name}' was deleted since its version {base_version}{again}: nothing is published"
        )


def _version(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _share(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and 0 <= value <= 1 else None


def _policy(value: Any) -> VersionPolicy | None:
    return VersionPolicy.read(value) if isinstance(value, dict) else None


#: Reads a value of the file, or returns None for an invalid one; and what is expected of it.
_VALUES: Final[Mapping[str, tuple[Callable[[Any], Any], str]]] = {
    "pinned": (_version, "a version number"),
    "loaded": (_flag, "true or false"),
    "highest": (_version, "a version number"),
    "canary": (_share, "a number from 0 to 1"),
    "policy": (_policy, "a version policy"),
    "deleted": (_version, "a version number"),
}
