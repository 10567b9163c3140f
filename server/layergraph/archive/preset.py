"""Opens preset folders of KerasHub, of a backbone, or of a task and its backbone; and unpacked `.keras` files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from layergraph.archive.files import FileWindow, open_regular
from layergraph.archive.finding import METADATA, PRESET_WEIGHTS, TASK_CONFIG, TASK_WEIGHTS
from layergraph.archive.hdf5 import Hdf5File
from layergraph.archive.json_and_weights import json_file
from layergraph.archive.limits import LoadLimits
from layergraph.archive.model_archive import ModelArchive
from layergraph.archive.weights import StateTree
from layergraph.errors import CorruptFileError, UnsupportedModelError

#: Names of floating-point dtype policies.
_FLOAT_POLICY = re.compile(r"(mixed_)?b?float\d+")


def open_preset(file: FileWindow, path: Path, limits: LoadLimits, resources: ExitStack) -> ModelArchive:
    """Opens the preset folder whose `config.json` is `file`, at `path`.

    Raises CorruptFileError, UnsafeFileError or UnsupportedModelError.
    """

    files = [path]

    def beside(name: str) -> FileWindow | None:
        if not path.with_name(name).exists():
            return None
        files.append(path.with_name(name))
        opened = open_regular(path.with_name(name))
        resources.callback(opened.close)
        return opened

    def weights(name: str) -> Hdf5File | None:
        opened = beside(name)
        if opened is None:
            return None
        content = Hdf5File(opened, path.with_name(name), opened.length, limits)
        resources.callback(content.close)
        return content

    metadata, task = beside(METADATA), beside(TASK_CONFIG)
    content = weights(PRESET_WEIGHTS)
    if content is None:
        raise UnsupportedModelError(path, f"its weights are in several files; expected one, {PRESET_WEIGHTS}")
    config = json_file(file, path, limits)
    task_content = None
    if task is not None:
        config = json_file(task, path.with_name(TASK_CONFIG), limits)
        task_content = weights(TASK_WEIGHTS)
    compiled = config.get("compile_config") if task is None else None
    inner = config.get("config")
    backbone = inner.get("backbone") if isinstance(inner, dict) else None
    _widen(backbone if isinstance(backbone, dict) else config)
    version = None if metadata is None else json_file(metadata, path.with_name(METADATA), limits).get("keras_version")
    assets = _Assets(path.parent)
    return ModelArchive(
        path,
        config=config,
        training_config=compiled if isinstance(compiled, dict) else None,
        keras_version=version if isinstance(version, str) else None,
        weights=StateTree(content.root),
        stored_bytes=file.length + content.stored_bytes + (0 if task_content is None else task_content.stored_bytes),
        limits=limits,
        resources=resources,
        members=assets,
        files=[*files, *(path.parent / name for name in assets.names)],
        task_weights=None if task_content is None else StateTree(task_content.root),
    )


class _Assets:
    """The files in the folder `assets` of an unpacked `.keras`, by their paths there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __contains__(self, name: str) -> bool:
        return self._path(name) is not None

    @property
    def names(self) -> list[str]:
        """Names of all files, with the folder's."""
        top = self._folder / "assets"
        found = [] if top.is_symlink() else [Path(place, name) for place, _, names in os.walk(top) for name in names]
        return sorted(str(path.relative_to(self._folder)) for path in found if not path.is_symlink())

    def read(self, name: str, largest: int) -> bytes:
        """Returns the content of a file. Raises CorruptFileError if it is longer than `largest` bytes."""
        path = self._path(name)
        if path is None:
            raise CorruptFileError(self._folder, f"has no file '{name}'")
        with open_regular(path) as file:
            if file.length > largest:
                raise CorruptFileError(path, f"has {file.length} bytes, expected at most {largest}")
            return file.read_at(0, file.length)

    def _path(self, name: str) -> Path | None:
        """The path of a file that exists, below folders that aren't links; each name is compared with the folder's."""
        path = self._folder
        for part in name.split("/"):
            if path.is_symlink() or not path.is_dir() or part not in os.listdir(path):
                return None
            path /= part
        return None if path.is_symlink() or not path.is_file() else path


def _widen(model: Mapping[str, Any]) -> None:
    """Drops the floating-point dtype policy of a backbone: from a preset, KerasHub loads it in float32."""
    inner = model.get("config")
    policy = inner.get("dtype") if isinstance(inner, dict) else None
    named = policy.get("config") if isinstance(policy, dict) else None
    name = named.get("name") if isinstance(named, dict) else None
    if isinstance(inner, dict) and isinstance(name, str) and _FLOAT_POLICY.fullmatch(name):
        del inner["dtype"]
