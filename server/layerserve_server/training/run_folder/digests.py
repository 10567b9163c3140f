"""What identifies the data of a run: the digests of what it has received, and the stamps of files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

from layerserve_server.disk import replace_file
from layerserve_server.records import read_object
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.layout import DIGESTS

#: What identifies the content of each array of a run; None for one that isn't known.
Identity: TypeAlias = Sequence[Mapping[str, Any] | None]


def write_digests(folder: Path, digests: Mapping[int, str]) -> None:
    """Writes the SHA-256 digests of the arrays that a run has received, by index. Raises OSError."""
    content = {str(index): digest for index, digest in digests.items()}
    replace_file(folder / DIGESTS, json.dumps(content), flushed=True)


def data_identity(folder: Path, request: RunRequest) -> Identity:
    """Returns the identity of a run's data, by the digests in `folder`."""
    digests = read_object(folder / DIGESTS)
    found: list[Mapping[str, Any] | None] = []
    for index, array in enumerate(request.data):
        digest = digests.get(str(index))
        file = None if array.file is None else replace(array.file, folder="")
        known = digest is not None or (file is not None and bool(file.stamp))
        found.append({**asdict(replace(array, file=file)), "sha256": digest} if known else None)
    return found


def same_data(one: Identity, other: Identity) -> bool:
    """Whether two runs have the same data, for certain."""
    return one == other and None not in one
