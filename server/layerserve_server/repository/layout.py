"""Layout of a repository, and the search for model files in it.

    ROOT/NAME/VERSION/model.keras    (or model.h5, or the only .keras, .h5 or .hdf5 file in the folder)
    ROOT/NAME/VERSION/saved_model.pb a SavedModel folder, with `variables/`, as TensorFlow writes it
    ROOT/NAME/VERSION/model.json     with weights in a .h5 file, a checkpoint of TensorFlow, or TensorFlow.js shards, in
                                     the same folder
    ROOT/NAME/VERSION/config.json    with model.weights.h5, as in a preset folder of KerasHub
    ROOT/NAME.keras                  served as version 1 of NAME

Files in a version's folder, or in that of the model, whose names end in `labels.txt` may have the labels of classes
(see `class_labels`). The one of ROOT/NAME.keras is ROOT/NAME.labels.txt.

Symbolic links below the root aren't followed. No file is opened here, so a named pipe can't block the search.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

from layerserve_server.errors import error_text, safe_text

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
LABEL = MODEL_NAME
#: What is expected of another name.
NAME_RULE = "expected a model name of letters, digits, '.', '_' and '-', beginning with a letter or digit"
VERSION_FOLDER = re.compile(r"[1-9][0-9]{0,17}")
#: Names of folders that are meant as versions. Only those of VERSION_FOLDER are ones, so that each has one name.
NUMBERED = re.compile(r"[vV]?[0-9]{1,18}")
#: File names preferred in a version folder, in this order.
FIRST_CHOICES = ("model.keras", "model.h5", "model.hdf5")
SUFFIXES = frozenset({".keras", ".h5", ".hdf5"})
#: Ends of the names of weights alone, and of an index of their files.
WEIGHTS_SUFFIX, INDEX_SUFFIX = ".weights.h5", ".weights.json"
#: Main file of a SavedModel folder, and the files of the folder that belong to it: folder -> start of their names.
SAVED_MODEL = "saved_model.pb"
SAVED_MODEL_PARTS = {".": "keras_metadata.pb", "variables": "variables.", "assets": ""}
#: Files of a preset folder of KerasHub: its config, and its weights in one file or several.
PRESET, PRESET_WEIGHTS = "config.json", frozenset({"model.weights.h5", "model.weights.json"})
#: File beside a published model file, with its origin, size and digest.
MANIFEST = "manifest.json"
#: File beside a model file, with golden inputs and outputs.
PROOF = "golden.npz"
#: File beside a model file, with inputs for which int8 is calibrated.
CALIBRATION = "calibration.npz"
#: End of the names of files with labels of classes.
CLASS_LABELS = "labels.txt"
#: Files that may belong to a model file in the root, NAME.keras: there, `golden.npz` is NAME.golden.npz.
BESIDE = (PROOF, CALIBRATION, CLASS_LABELS)
#: File beside the version folders, with version numbers by label.
LABELS = "labels.json"

#: Identifies the content of a model file: device, inode, size in bytes, mtime and ctime in nanoseconds, followed by
#: those of the files that belong to it.
Fingerprint: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FoundVersion:
    """A version on disk. With a `problem` it can't be loaded, and `fingerprint` is NOTHING or a wrong file's.

    `path` is its model file, or its folder if there is none: loading it reports what the folder has.
    """

    name: str
    version: int
    path: Path
    fingerprint: Fingerprint
    #: Whether its folder was created by a rename, so that its files are complete.
    published: bool = False
    problem: str = ""
    #: Further files that the model consists of, relative to the folder of `path`.
    parts: tuple[str, ...] = ()
    #: Whether its files are elsewhere, and have to be fetched first (see `version_source`).
    absent: bool = False
    #: Why they couldn't be fetched so far, while that goes on; empty if nothing failed.
    delay: str = ""
    #: Files that may have labels of its classes, by name.
    class_labels: tuple[tuple[str, Path], ...] = ()

    def __post_init__(self) -> None:
        # It names files, whose names needn't be text, and is sent to all who list models.
        object.__setattr__(self, "problem", safe_text(self.problem))

    @property
    def label(self) -> str:
        """Name in error texts and log lines."""
        return f"model '{self.name}' version {self.version}"

    @property
    def model_fingerprint(self) -> Fingerprint:
        """The fingerprint of the model's files: without those of its proof and its labels."""
        return self.fingerprint[: 5 * (1 + len(self.parts))]

    @property
    def size(self) -> int:
        """Size of the model's files, in bytes."""
        return sum(self.model_fingerprint[2::5])

    @property
    def modified(self) -> float:
        """Unix time of the last change of the file or one that belongs to it, in seconds."""
        return max(self.fingerprint[3::5]) / 1e9


NOTHING: Fingerprint = (0, 0, 0, 0, 0)


class Contents(NamedTuple):
    """What a repository folder has."""

    versions: list[FoundVersion]
    #: Models that are in the wrong place or have a wrong name, so that they aren't served: path -> what was expected.
    misplaced: dict[str, str]
    #: Models whose folder can't be read, with the reason.
    unread: dict[str, str]


def find_in_folder(root: Path) -> Contents:
    """Finds all versions in a repository folder. Raises OSError if the folder itself can't be read."""
    found: dict[tuple[str, int], FoundVersion] = {}
    misplaced: dict[str, str] = {}
    unread: dict[str, str] = {}
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            if MODEL_NAME.fullmatch(entry.name):
                of_model = _find_in_model(entry.name, Path(entry.path))
                found.update({(one.name, one.version): one for one in of_model.versions})
                misplaced.update(of_model.misplaced)
                unread.update(of_model.unread)
            elif not entry.name.startswith(".") and _may_be_model(Path(entry.path)):
                misplaced[entry.name] = NAME_RULE
        elif Path(entry.name).suffix in SUFFIXES:
            name = Path(entry.name).stem
            if MODEL_NAME.fullmatch(name):
                found.setdefault((name, 1), find_flat_file(name, Path(entry.path)))
            elif not name.startswith("."):
                misplaced[entry.name] = NAME_RULE
        elif entry.name == SAVED_MODEL:
            misplaced[entry.name] = f"expected NAME/VERSION/{SAVED_MODEL} in the folder that is served"
        elif entry.is_symlink() and not entry.name.startswith(".") and _may_be_model(Path(entry.path)):
            misplaced[entry.name] = "it is a symbolic link, expected a folder"
    # Names of files needn't be text, and these are logged and sent.
    named = {safe_text(path): safe_text(expected) for path, expected in misplaced.items()}
    return Contents(list(found.values()), named, unread)


def find_flat_file(name: str, path: Path) -> FoundVersion:
    """Returns the version of a model file in the root."""
    return find_file(name, 1, path, proof=f"{name}.{PROOF}", class_labels=_labels_beside(name, path))


def find_single_file(name: str, path: Path) -> FoundVersion:
    """Returns the version of a model file with which a server was started."""
    return find_file(name, 1, path, class_labels=_labels_beside(name, path))


def find_file(
    name: str,
    version: int,
    path: Path,
    *,
    published: bool = False,
    parts: Iterable[str] = (),
    proof: str = PROOF,
    class_labels: Mapping[str, Path] = {},
) -> FoundVersion:
    """Returns the version of a model file.

    Its fingerprint includes its `parts`, its `proof`, the calibration beside that, and its `class_labels`, as far as
    they exist.
    """
    try:
        state = os.lstat(path)
    except OSError as error:
        return FoundVersion(name, version, path, NOTHING, problem=f"{path.name}: {error.strerror}")
    problem = "" if stat.S_ISREG(state.st_mode) else f"{path.name} is {_kind(state.st_mode)}, expected a regular file"
    parts = tuple(sorted(parts))
    marks = fingerprint(state) + _fingerprint_of_parts(path, parts)
    for optional in (proof, proof.removesuffix(PROOF) + CALIBRATION):
        marks += _fingerprint_of(path.with_name(optional)) or ()
    labels = tuple((name, file) for name, file in sorted(class_labels.items()) if _is_regular(file))
    for _, file in labels:
        marks += _fingerprint_of(file) or ()
    return FoundVersion(name, version, path, marks, published, problem, parts, class_labels=labels)


def fingerprint(state: os.stat_result) -> Fingerprint:
    """Returns the fingerprint of a file."""
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def model_fingerprint(path: Path, parts: Iterable[str]) -> Fingerprint:
    """Returns the fingerprint that a model file and its parts have now. Raises OSError if the file is gone."""
    return fingerprint(os.lstat(path)) + _fingerprint_of_parts(path, parts)


def _fingerprint_of_parts(path: Path, parts: Iterable[str]) -> Fingerprint:
    return sum((_fingerprint_of(path.parent / part) or NOTHING for part in parts), ())


def _labels_beside(name: str, path: Path) -> dict[str, Path]:
    return {CLASS_LABELS: path.with_name(f"{name}.{CLASS_LABELS}")}


def _is_regular(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _fingerprint_of(path: Path) -> Fingerprint | None:
    try:
        return fingerprint(os.lstat(path))
    except OSError:
        return None


def _find_in_model(name: str, folder: Path) -> Contents:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return Contents([], {}, {})
    except OSError as error:
        return Contents([], {}, {name: error_text(error)})
    labels = {entry.name: Path(entry.path) for entry in entries if entry.name.endswith(CLASS_LABELS)}
    versions, others = [], []
    for entry in entries:
        if VERSION_FOLDER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
            versions.append(find_version(name, int(entry.name), Path(entry.path), labels))
        else:
            others.append(entry)
    return Contents(versions, _misplaced_in_model(name, others, alone=not versions), {})


def _misplaced_in_model(name: str, entries: Iterable[os.DirEntry[str]], *, alone: bool) -> dict[str, str]:
    """Returns what is misplaced in the folder of a model.

    Unless it is `alone`, other files and folders beside its versions are no mistake, such as a backup.
    """
    misplaced = {}
    for entry in entries:
        path = f"{name}/{entry.name}"
        if NUMBERED.fullmatch(entry.name) and entry.is_dir():
            number = int(entry.name.lstrip("vV"))
            if VERSION_FOLDER.fullmatch(entry.name):
                misplaced[path] = "it is a symbolic link, expected a folder"
            else:
                misplaced[path] = f"expected a folder named by a number alone, such as {name}/{number or 1}"
        elif not alone:
            continue
        elif entry.name == SAVED_MODEL or Path(entry.name).suffix in SUFFIXES:
            misplaced[path] = f"expected {name}/VERSION/{entry.name}, such as {name}/1/{entry.name}"
            if VERSION_FOLDER.fullmatch(name):
                misplaced[path] = "expected NAME/VERSION/FILE; if this is the folder of one model, serve the one above"
        elif entry.is_dir() and not entry.name.startswith(".") and _has_model(Path(entry.path)):
            misplaced[path] = f"expected {name}/VERSION, a folder named by a number, such as {name}/1"
    return misplaced


def _may_be_model(folder: Path) -> bool:
    """Whether a folder may be that of a model or a version. It isn't listed, since it may be a large one."""
    return _has_model(folder) or _has_model(folder / "1")


def _has_model(folder: Path) -> bool:
    return any((folder / file).is_file() for file in (*FIRST_CHOICES, SAVED_MODEL))


def labels_of_model(folder: Path) -> dict[str, Path]:
    """Returns the files with labels in a model's folder, which needn't exist, by name."""
    return {path.name: path for path in folder.glob(f"*{CLASS_LABELS}")}


def find_version(name: str, version: int, folder: Path, class_labels: Mapping[str, Path] = {}) -> FoundVersion:
    """Returns the version in a folder. `class_labels` are those of the model, which the version's own replace."""
    try:
        held = set(os.listdir(folder))
    except OSError as error:
        return FoundVersion(
            name, version, folder, NOTHING, problem=f"the version's folder can't be read: {error.strerror}"
        )
    files = [first for first in FIRST_CHOICES if first in held][:1]
    files = files or [SAVED_MODEL] * (SAVED_MODEL in held)
    files = files or [PRESET] * (PRESET in held and not held.isdisjoint(PRESET_WEIGHTS))
    indexes = {file for file in held if file.endswith(INDEX_SUFFIX)}
    # With an index, files of weights are parts.
    parts_of = WEIGHTS_SUFFIX if indexes else ()
    files = files or sorted(file for file in held if Path(file).suffix in SUFFIXES and not file.endswith(parts_of))
    # An architecture file, with weights beside it or in TensorFlow.js shards.
    files = files or sorted(file for file in held - {MANIFEST} - indexes if Path(file).suffix == ".json")
    if not files:
        problem = "" if held else "the version's folder is empty, expected a model file in it"
        marks = [_fingerprint_of(folder / file) or NOTHING for file in ("", *sorted(held))]
        return FoundVersion(name, version, folder, sum(marks, ()) if held else NOTHING, problem=problem)
    if len(files) > 1:
        listed = ", ".join(files[:5])
        problem = f"the version's folder has {len(files)} model files, expected one or a model.keras: {listed}"
        return FoundVersion(name, version, folder, NOTHING, problem=problem)
    others = held - {files[0], MANIFEST, PROOF, CALIBRATION}
    parts: Iterable[str] = ()
    if files[0] == SAVED_MODEL:
        parts = _saved_model_parts(folder)
    elif any(file.endswith(".json") for file in (files[0], *others)):
        # The weights of an architecture may be in any of the other files.
        parts = [file for file in others if _is_regular(folder / file)]
    labels = {**class_labels, **{file: folder / file for file in held if file.endswith(CLASS_LABELS)}}
    return find_file(name, version, folder / files[0], published=MANIFEST in held, parts=parts, class_labels=labels)


def _saved_model_parts(folder: Path) -> Iterator[str]:
    for inside, start in SAVED_MODEL_PARTS.items():
        if (folder / inside).is_symlink():
            continue
        with contextlib.suppress(OSError), os.scandir(folder / inside) as entries:
            for entry in entries:
                if entry.name.startswith(start) and entry.is_file(follow_symlinks=False):
                    yield os.path.normpath(os.path.join(inside, entry.name))


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "no file")
