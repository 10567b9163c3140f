"""Finds a model's files on disk."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from layergraph.archive.files import open_regular, reason
from layergraph.archive.other_formats import EXPECTED, described_folder
from layergraph.errors import CorruptFileError

#: Names of the model file in a version folder, by priority; otherwise the only file with one of the suffixes.
MODEL_NAMES = ("model.keras", "model.h5", "model.hdf5", "saved_model.pb", "model.json")
#: Ends of the names of weights alone, and of an index of their files.
WEIGHTS_SUFFIX, INDEX_SUFFIX = ".weights.h5", ".weights.json"
MODEL_SUFFIXES = (".keras", ".h5", ".hdf5")
#: Names in a preset folder of KerasHub: config and weights of the backbone, and of a task on it. An unpacked `.keras`
#: has the first two.
PRESET_CONFIG, PRESET_WEIGHTS = "config.json", "model.weights.h5"
TASK_CONFIG, TASK_WEIGHTS = "task.json", "task.weights.h5"
PRESET_SHARDS = "model.weights.json"
#: Name of the versions' file, in a preset folder and in a `.keras`.
METADATA = "metadata.json"
#: Name of TensorFlow's file that names the latest checkpoint of a folder, and how much of it is read.
CHECKPOINT = "checkpoint"
_CHECKPOINT_BYTES = 64 * 1024


def find_model(path: Path) -> Path:
    """Returns the model file at `path`: `path` itself, or the model in the version folder `path`.

    Raises CorruptFileError if there is none, or several without a preferred name.
    """
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            return path
        present = [entry.name for entry in os.scandir(path) if entry.name not in _OTHER_JSON]
        indexes = [name for name in present if name.endswith(INDEX_SUFFIX)]
        present = [name for name in present if name not in indexes]
        # With an index, files of weights are parts.
        parts = WEIGHTS_SUFFIX if indexes else ()
        names = sorted(name for name in present if name.endswith(MODEL_SUFFIXES) and not name.endswith(parts))
        names += ["saved_model.pb"] * ("saved_model.pb" in present)
        names = names or sorted(name for name in present if name.endswith(".json"))
    except (OSError, ValueError) as wrong:
        raise CorruptFileError(path, f"can't be opened: {reason(wrong)}") from wrong
    if not any(name in names for name in MODEL_NAMES) and is_preset(path):
        return path / PRESET_CONFIG
    # `model.weights.h5` has weights only; it is the model file only if there is no other.
    names = [name for name in names if not name.endswith(WEIGHTS_SUFFIX)] or names
    for name in MODEL_NAMES:
        if name in names:
            return path / name
    if len(names) == 1:
        return path / names[0]
    if not names:
        raise CorruptFileError(path, f"the folder {_described(path)}; expected {EXPECTED}")
    raise CorruptFileError(path, f"the folder has {len(names)} model files: {', '.join(names[:10])}; expected one")


def is_preset(folder: Path) -> bool:
    """Whether a folder holds a preset of KerasHub. Links don't count."""
    weights = (PRESET_WEIGHTS, PRESET_SHARDS)
    return _is_file(folder / PRESET_CONFIG) and any(_is_file(folder / name) for name in weights)


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


#: JSON files of the server that aren't models.
_OTHER_JSON = ("manifest.json", "labels.json")


def find_config(weights: Path) -> Path | None:
    """Returns the architecture file next to weights: of the same stem, `model.json`, or the only one; or None."""
    stem = weights.name.partition(".")[0]
    names = names_beside(weights, (".json",))
    for name in (f"{stem}.json", f"{stem.removesuffix('_weights')}.json", "model.json"):
        if name in names:
            return weights.parent / name
    return weights.parent / names[0] if len(names) == 1 else None


def find_weights(config: Path) -> Path:
    """Returns the weights next to an architecture, or an index of their files.

    Raises CorruptFileError if there are none, or several candidates.
    """
    indexes = names_beside(config, (INDEX_SUFFIX,))
    names = indexes or names_beside(config, (".h5", ".hdf5"))
    for name in (f"{config.stem}{end}" for end in (INDEX_SUFFIX, WEIGHTS_SUFFIX, ".h5", ".hdf5", "_weights.h5")):
        if name in names:
            return config.parent / name
    if len(names) == 1:
        return config.parent / names[0]
    if not names and (index := _checkpoint(config)) is not None:
        return index
    raise CorruptFileError(config, f"has no weights, and there are {len(names)} weight files next to it; expected one")


def _checkpoint(config: Path) -> Path | None:
    """Returns the index of the checkpoint next to an architecture: of the same stem, the latest, or the only one."""
    names = names_beside(config, (".index",))
    for name in (f"{config.stem}.index", f"{_latest_checkpoint(config)}.index"):
        if name in names:
            return config.parent / name
    return config.parent / names[0] if len(names) == 1 else None


def _latest_checkpoint(config: Path) -> str:
    """The name of the latest checkpoint in TensorFlow's `checkpoint` file; "" if there is none."""
    path = config.with_name(CHECKPOINT)
    if path.is_symlink() or not path.is_file():
        return ""
    file = open_regular(path)
    try:
        text = file.read_at(0, _CHECKPOINT_BYTES).decode("utf-8", "replace")
    finally:
        file.close()
    found = re.search(r'^model_checkpoint_path: "([^"\n]*)"', text, re.MULTILINE)
    # The name is only compared with those of the folder.
    return "" if found is None else found[1].rpartition("/")[2]


def names_beside(path: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Regular files in the folder of `path` with these suffixes; links are excluded."""
    with os.scandir(path.parent) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.name.endswith(suffixes) and entry.name not in _OTHER_JSON and entry.is_file(follow_symlinks=False)
        )


def _described(folder: Path) -> str:
    try:
        return described_folder(folder)
    except OSError as wrong:
        return f"can't be read: {reason(wrong)}"
