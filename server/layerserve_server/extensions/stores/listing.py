"""Which versions a store holds, by the paths of its objects. Paths come from the store and aren't trusted.

A store has the layout of a repository (`repository.layout`). Its root may also be one model by itself: a file, a
SavedModel folder, or a preset folder, as repositories of hf:// are. That is version 1 of a model with the root's name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from layerserve_server.errors import safe_text
from layerserve_server.extensions.object_stores.objects import MAX_DEPTH, MAX_FILES, StoredObject
from layerserve_server.records import INT64, checked
from layerserve_server.repository.control import CONTROL
from layerserve_server.repository.layout import (
    BESIDE,
    CLASS_LABELS,
    LABELS,
    MANIFEST,
    MODEL_NAME,
    PRESET,
    PRESET_WEIGHTS,
    SAVED_MODEL,
    SUFFIXES,
    VERSION_FOLDER,
)
from layerserve_server.repository.model_settings import SETTINGS_FILE
from layerserve_server.repository.publishing import MAX_LABELS_BYTES

#: Object in a version's folder that a publisher creates first and deletes last.
CLAIM = ".publishing"
#: Objects beside the version folders that the server reads.
OF_MODELS = (LABELS, SETTINGS_FILE, CONTROL)
#: Maximum length of a part of a path, in bytes, as filesystems have it.
MAX_PART_BYTES = 200

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class RemoteVersion:
    """A version in a store. With a `problem` it can't be fetched."""

    name: str
    version: int
    #: Objects by path in the version's folder.
    files: Mapping[str, StoredObject]
    #: Whether a publisher has begun it, and not yet ended.
    claimed: bool = False
    problem: str = ""
    #: Digest that changes with the content of any of its objects.
    identity: str = field(init=False)

    def __post_init__(self) -> None:
        marks = [[name, one.size, one.identity] for name, one in sorted(self.files.items())]
        digest = hashlib.sha256(json.dumps(marks).encode("utf-8", "surrogatepass")).hexdigest()
        object.__setattr__(self, "identity", digest)

    @property
    def key(self) -> Key:
        """Name and version."""
        return self.name, self.version

    @property
    def size(self) -> int:
        """Size of its objects, in bytes."""
        return sum(one.size for one in self.files.values())

    @property
    def published(self) -> bool:
        """Whether it has a manifest, which is written last."""
        return MANIFEST in self.files

    def as_json(self) -> dict[str, Any]:
        """Returns its fields, for JSON; `from_json` restores it."""
        files = {name: one.as_json() for name, one in self.files.items()}
        return {
            "name": self.name,
            "version": self.version,
            "files": files,
            "claimed": self.claimed,
            "problem": self.problem,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RemoteVersion:
        """Restores a version. Raises DAMAGED if the values aren't one."""
        files = {name: StoredObject(**one) for name, one in values["files"].items()}
        one = checked(cls(**{**values, "files": files}))
        if not MODEL_NAME.fullmatch(one.name) or not VERSION_FOLDER.fullmatch(str(one.version)) or _problem(files):
            raise ValueError(f"got version {one.version} of '{one.name}', expected one that a store can have")
        return one


@dataclass(slots=True)
class Listing:
    """The versions in a store, and the small objects of models, by path."""

    versions: dict[Key, RemoteVersion] = field(default_factory=dict)
    of_models: dict[str, StoredObject] = field(default_factory=dict)


def arrange(objects: Collection[StoredObject], root: str) -> Listing:
    """Returns what the objects of a store are. `root` is the name of its folder."""
    listing = Listing()
    folders: dict[Key, dict[str, StoredObject]] = {}
    claims: set[Key] = set()
    top: dict[str, StoredObject] = {}
    #: Files with labels of classes in a model's folder. They come with the copy of each version.
    labels: dict[str, dict[str, StoredObject]] = {}
    for one in objects:
        first, *rest = one.path.split("/")
        if not rest:
            top[first] = one
        elif not MODEL_NAME.fullmatch(first):
            continue
        elif len(rest) == 1 and rest[0] in OF_MODELS:
            listing.of_models[one.path] = one
        elif len(rest) > 1 and VERSION_FOLDER.fullmatch(rest[0]):
            key = first, int(rest[0])
            folders.setdefault(key, {})["/".join(rest[1:])] = one
            if rest[1:] == [CLAIM]:
                claims.add(key)
        elif len(rest) == 1 and rest[0].endswith(CLASS_LABELS):
            labels.setdefault(first, {})[rest[0]] = one
    for (name, number), files in folders.items():
        # The names before the check: a version with an unsafe name isn't served without that file.
        of_model = {path: one for path, one in labels.get(name, {}).items() if not _hidden(path)}
        problem = _problem({**of_model, **files})
        kept = {path: one for path, one in files.items() if not _hidden(path)}
        if kept or problem:
            kept = {**of_model, **kept}
            claimed = (name, number) in claims
            listing.versions[name, number] = RemoteVersion(name, number, {} if problem else kept, claimed, problem)
    for version in (*_flat_files(top), *_root_itself(top, objects, root)):
        listing.versions.setdefault(version.key, version)
        if f"{version.name}.toml" in top:
            # Its settings: the copy of such a file is in a folder, as all copies are.
            listing.of_models.setdefault(f"{version.name}/{SETTINGS_FILE}", top[f"{version.name}.toml"])
    return listing


def _flat_files(top: Mapping[str, StoredObject]) -> Iterable[RemoteVersion]:
    """Model files in the root, with what is beside them: `NAME.keras`, `NAME.golden.npz`, ..."""
    for path, one in sorted(top.items()):
        name, suffix = PurePosixPath(path).stem, PurePosixPath(path).suffix
        if suffix in SUFFIXES and MODEL_NAME.fullmatch(name) and not _is_preset(top):
            beside = {inside: top[f"{name}.{inside}"] for inside in BESIDE if f"{name}.{inside}" in top}
            yield _flat(name, {path: one, **beside})


def _root_itself(
    top: Mapping[str, StoredObject], objects: Collection[StoredObject], root: str
) -> Iterable[RemoteVersion]:
    if MODEL_NAME.fullmatch(root) and (SAVED_MODEL in top or _is_preset(top)):
        yield _flat(root, {one.path: one for one in objects if not _hidden(one.path)})


def _flat(name: str, files: Mapping[str, StoredObject]) -> RemoteVersion:
    problem = _problem(files)
    return RemoteVersion(name, 1, {} if problem else files, problem=problem)


def _is_preset(top: Mapping[str, StoredObject]) -> bool:
    return PRESET in top and not PRESET_WEIGHTS.isdisjoint(top)


def _hidden(path: str) -> bool:
    return any(part.startswith(".") and part != ".." for part in path.split("/"))


def _problem(files: Mapping[str, StoredObject]) -> str:
    """Returns why a version's objects can't be files of a folder, as a text; empty if they can."""
    if len(files) > MAX_FILES:
        return f"the version has {len(files)} files, expected up to {MAX_FILES}"
    for path, one in files.items():
        parts = path.split("/")
        if not all(map(_safe, parts)) or len(parts) > MAX_DEPTH:
            return f"the store has a file of the name {safe_text(path, 200)!r}, which can't be a file of a version"
        if any("/".join(parts[:end]) in files for end in range(1, len(parts))):
            return f"the store has both a file and a folder of the name of a part of {safe_text(path, 200)!r}"
        if one.size < 0 or one.size not in INT64:
            return f"{safe_text(path, 200)!r}: got size {safe_text(str(one.size), 40)}"
    if MANIFEST in files and files[MANIFEST].size > MAX_LABELS_BYTES:
        # The server reads it.
        return f"{MANIFEST}: got {files[MANIFEST].size} bytes, expected up to {MAX_LABELS_BYTES}"
    return ""


def _safe(part: str) -> bool:
    """Whether a part of a path is one file name, without a meaning of its own for the system."""
    try:
        length = len(part.encode("utf-8"))
    except UnicodeEncodeError:
        return False
    return part not in ("", ".", "..") and length <= MAX_PART_BYTES and part.isprintable() and "\\" not in part


def names(files: Mapping[str, StoredObject]) -> Sequence[str]:
    """Returns the names of a version's files, in the order in which they are fetched."""
    return sorted(files)
