"""Opens preset folders of KerasHub: of a backbone, or of a task and its backbone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from layergraph.archive.files import FileWindow, open_regular
from layergraph.archive.finding import METADATA, PRESET_WEIGHTS, TASK_CONFIG, TASK_WEIGHTS
from layergraph.archive.hdf5 import Hdf5File
from layergraph.archive.joined import json_file
from layergraph.archive.limits import LoadLimits
from layergraph.archive.model_archive import ModelArchive
from layergraph.archive.weights import StateTree
from layergraph.errors import UnsupportedModelError

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
    inner = config.get("config")
    backbone = inner.get("backbone") if isinstance(inner, dict) else None
    _widen(backbone if isinstance(backbone, dict) else config)
    version = None if metadata is None else json_file(metadata, path.with_name(METADATA), limits).get("keras_version")
    return ModelArchive(
        path,
        config=config,
        training_config=None,
        keras_version=version if isinstance(version, str) else None,
        weights=StateTree(content.root),
        stored_bytes=file.length + content.stored_bytes + (0 if task_content is None else task_content.stored_bytes),
        limits=limits,
        resources=resources,
        files=files,
        task_weights=None if task_content is None else StateTree(task_content.root),
    )


def _widen(model: Mapping[str, Any]) -> None:
    """Drops the floating-point dtype policy of a backbone: from a preset, KerasHub loads it in float32."""
    inner = model.get("config")
    policy = inner.get("dtype") if isinstance(inner, dict) else None
    named = policy.get("config") if isinstance(policy, dict) else None
    name = named.get("name") if isinstance(named, dict) else None
    if isinstance(inner, dict) and isinstance(name, str) and _FLOAT_POLICY.fullmatch(name):
        del inner["dtype"]
