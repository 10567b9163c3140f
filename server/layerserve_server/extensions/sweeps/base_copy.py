"""The version that the trials of a sweep start from: a copy, as the version may be unloaded before the sweep ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from layerserve_server.disk import json_object, replace_file, sync
from layerserve_server.errors import NotTrainableError
from layerserve_server.inference.runner import TensorSpec
from layerserve_server.records import checked
from layerserve_server.repository.layout import FoundVersion
from layerserve_server.training.runs.base_version import BaseVersion
from layerserve_server.training.runs.folder import BASE
from layerserve_server.training.runs.table import copy_version

#: Name of the file that describes the copy in a sweep's folder.
DESCRIPTION = "base.json"


@dataclass(frozen=True, slots=True)
class Spec:
    """An input or output."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Base:
    """A copy of a version in a sweep's folder."""

    found: FoundVersion
    parameter_count: int
    input_specs: Sequence[TensorSpec]
    output_specs: Sequence[TensorSpec]

    @property
    def model(self) -> Base:
        return self

    @classmethod
    def read(cls, folder: Path) -> Base:
        """Reads the copy in a sweep's folder. Raises NotTrainableError if the description is damaged, and OSError."""
        try:
            values = json_object((folder / DESCRIPTION).read_bytes())
            inputs, outputs = (
                [checked(Spec(one["name"], tuple(one["shape"]), one["dtype"])) for one in values[name]]
                for name in ("inputs", "outputs")
            )
            copied = values["found"]
            found = FoundVersion(
                copied["name"],
                copied["version"],
                folder / BASE / copied["path"],
                tuple(copied["fingerprint"]),
                parts=tuple(copied["parts"]),
            )
            checked(found, ("name", "version", "fingerprint", "parts"))
            return checked(cls(found, values["parameter_count"], inputs, outputs), ("parameter_count",))
        except (ValueError, KeyError, TypeError) as error:
            raise NotTrainableError(f"the sweep's {DESCRIPTION} is damaged: {error}") from error


def copy_base(base: BaseVersion, folder: Path) -> None:
    """Copies a version's files to a sweep's folder, with a description. Raises OSError."""
    found = base.found
    copy_version(found, folder / BASE)
    for path in (*(folder / BASE).rglob("*"), folder / BASE):
        sync(path)
    description = {
        "found": {
            "name": found.name,
            "version": found.version,
            "path": found.path.name,
            "fingerprint": found.fingerprint,
            "parts": found.parts,
        },
        "parameter_count": base.parameter_count,
        "inputs": [_described(spec) for spec in base.model.input_specs],
        "outputs": [_described(spec) for spec in base.model.output_specs],
    }
    replace_file(folder / DESCRIPTION, json.dumps(description), flushed=True)


def _described(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "shape": spec.shape, "dtype": spec.dtype}
