"""Atomic, crash-safe publication of new versions and labels in a repository."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from layerserve_server import folder_owner
from layerserve_server.disk import json_object, replace_file, sha256, sync
from layerserve_server.errors import VersionConflictError
from layerserve_server.folder_owner import UnfinishedFolder, unfinished
from layerserve_server.repository.layout import FIRST_CHOICES, LABEL, LABELS, MANIFEST, MODEL_NAME, VERSION_FOLDER

#: Maximum size of a labels or manifest file that is read, in bytes.
MAX_LABELS_BYTES = 64 * 1024

#: Held while a JSON file is changed, since it is read, changed and replaced as a whole.
_changing = threading.Lock()


def publish(
    root: Path,
    name: str,
    file: Path,
    facts: Mapping[str, Any],
    *,
    above: int = 0,
    expected: int = 0,
    beside: Mapping[str, Path] = {},
    check: Callable[[], None] = lambda: None,
) -> int:
    """Moves a model file into `root` as the next version of the model. Returns the version number.

    `check` raises an error if nothing is to be published any more; no model is deleted between it and the publication.

    The number is one higher than the highest on disk and than `above`. The version's folder is created by a rename,
    with a manifest (`facts`, and the file's sha256 and size) and copies of the files `beside`, by name. The file is
    removed from its old path last, so that a killed publisher can start again. Raises OSError on failure, and
    VersionConflictError if the model has a version above `expected` (0: any), or never had that one; then leaves the
    repository unchanged.
    """
    # Also before the folder of a model is made that is gone.
    check()
    folder = model_folder(root, name)
    own = UnfinishedFolder(folder)
    temporary = own.path
    try:
        target = temporary / (FIRST_CHOICES[0] if file.suffix == ".keras" else "model" + file.suffix)
        link_file(file, target)
        manifest = {**facts, "file": target.name, "bytes": target.stat().st_size, "sha256": sha256(target)}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")
        copies = [shutil.copyfile(path, temporary / copied) for copied, path in beside.items()]
        for path in (target, temporary / MANIFEST, *copies, temporary):
            sync(path)
        with locked_folder(folder):
            check()
            version = (
                claim_next(name, temporary, folder, above, expected) if expected else claim(temporary, folder, above)
            )
    except OSError:
        # The folder may be gone with its model.
        check()
        raise
    finally:
        own.remove()
    for path in (folder, root):  # a new model's folder is a new name in `root`
        sync(path)
    file.unlink()
    return version


def claim(temporary: Path, folder: Path, above: int) -> int:
    """Renames a folder to the next free version number, and returns the number.

    Renaming onto a folder that isn't empty fails. So a version is never overwritten, and if two publishers choose the
    same number, one continues with the next.
    """
    version = above
    while True:
        version = max([version, *version_numbers(folder)]) + 1
        target = folder / str(version)
        if os.path.lexists(target):
            continue
        try:
            os.rename(temporary, target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                continue
            raise
        return version


def check_expected(name: str, expected: int, newest: int, highest: int) -> None:
    """Raises VersionConflictError if a model has a version above `expected`, or has had none as high as that."""
    if not newest <= expected <= highest:
        raise VersionConflictError(name, expected, newest)


def claim_next(name: str, temporary: Path, folder: Path, above: int, expected: int) -> int:
    """Like `claim`, if no version is above `expected`. Raises VersionConflictError if there is one.

    Also raises it for an `expected` version that the model never had: the number after it would leave a gap, up to the
    largest number that a version may have.

    Publishers choose the same next number, and renaming onto a folder fails: so a version that is published between the
    check and the renaming is noticed, too, whichever process or server publishes it.
    """
    newest = max(version_numbers(folder), default=0)
    highest = max(above, newest)
    check_expected(name, expected, newest, highest)
    version = highest + 1
    target = folder / str(version)
    try:
        if os.path.lexists(target):
            raise VersionConflictError(name, expected, version)
        os.rename(temporary, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise VersionConflictError(name, expected, version) from error
        raise
    return version


def withdraw(root: Path, paths: Iterable[Path]) -> None:
    """Removes files and folders from a repository, each in one step; those that don't exist are left out.

    Raises OSError on failure, and then leaves the remaining ones. What a kill leaves is swept.
    """
    with unfinished(root) as temporary:
        for number, path in enumerate(paths):
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, temporary / str(number))
                sync(path.parent)


def model_folder(root: Path, name: str) -> Path:
    """Returns the folder of a model, which is made if needed. Raises OSError.

    A symbolic link isn't followed, as in the search for models: what was written behind it wouldn't be found.
    """
    folder = root / name
    if folder.is_symlink():
        raise OSError(errno.ELOOP, f"'{name}' is a symbolic link, expected a folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def version_numbers(folder: Path) -> list[int]:
    """Returns the version numbers in a model's folder."""
    return [int(name) for name in os.listdir(folder) if VERSION_FOLDER.fullmatch(name)]


def link_file(source: Path, target: Path) -> None:
    """Hard-links a file, or copies it if that isn't possible, such as to another filesystem. Raises OSError."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            raise
        shutil.copyfile(source, target)


def sweep(root: Path) -> list[Path]:
    """Removes what killed publishers have left in a repository. Returns the removed folders."""
    return [path for folder in (root, *_folders(root)) for path in folder_owner.sweep(folder)]


def _folders(root: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def host_name() -> str:
    """Returns this host's name in characters that are valid in file names."""
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()) or "host"


def read_labels(folder: Path) -> dict[str, int]:
    """Returns the version numbers of a model's labels; empty if there is no file. Raises UnreadableFileError."""
    labels = read_json(folder, LABELS)
    for label, version in labels.items():
        if not (LABEL.fullmatch(label) and type(version) is int and version > 0):
            got = f"{label[:80]!r}: {version!r:.80}"
            raise UnreadableFileError(f"{LABELS}: got {got}, expected labels with version numbers")
    return labels


def write_label(folder: Path, label: str, version: int) -> None:
    """Sets a label to a version, atomically. Raises OSError on failure, and then leaves the labels unchanged."""
    change_json(folder, LABELS, lambda: {**read_labels(folder), label: version})


def remove_label(folder: Path, label: str) -> None:
    """Removes a label, atomically. Raises OSError on failure, and then leaves the labels unchanged."""

    def others() -> dict[str, int]:
        return {other: version for other, version in read_labels(folder).items() if other != label}

    change_json(folder, LABELS, others)


class UnreadableFileError(OSError):
    """A file is there but can't be read, or isn't valid. Its values aren't known, which isn't the same as not set."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EIO, text)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Returns the object in a small JSON file; empty if there is no file. Raises UnreadableFileError."""
    try:
        handle = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            return json_object(file.read(MAX_LABELS_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UnreadableFileError(f"{name}: {error.strerror}") from error
    except ValueError as error:
        raise UnreadableFileError(f"{name}: {error}") from error


def change_json(folder: Path, name: str, content: Callable[[], Mapping[str, Any]]) -> None:
    """Replaces a small JSON file, atomically. `content` is called while no other process changes it.

    Raises OSError on failure, also if `content` can't read the file, and then leaves the file unchanged.
    """
    with _changing, locked_folder(folder):
        replace_file(folder / name, json_bytes(content()), flushed=True)


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Returns the content of a JSON file."""
    return json.dumps(content, indent=1).encode()


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Excludes other processes from publishing to a model, deleting it and changing its labels within the block.

    Only if the filesystem supports locks on folders. Raises OSError if there is no such folder.
    """
    while True:
        handle = os.open(folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            # It may have been deleted, and made anew, while this process waited.
            if os.path.samestat(os.fstat(handle), os.stat(folder)):
                yield
                return
        finally:
            os.close(handle)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest in a version's folder; empty if there is none. Raises UnreadableFileError."""
    return read_json(folder, MANIFEST)


def check_manifest(path: Path, manifest: Mapping[str, Any], digest: Callable[[Path], str] = sha256) -> str:
    """Compares a published file with its manifest. Returns the difference as a text, empty if there is none.

    `digest` returns the sha256 of a file.
    """
    size = path.stat().st_size
    if manifest.get("bytes", size) != size:
        return f"{path.name}: got {size} bytes, expected {manifest['bytes']} as in its manifest"
    if "sha256" in manifest and manifest["sha256"] != digest(path):
        return f"{path.name}: its sha256 differs from its manifest's"
    return ""


def valid_name(name: str) -> bool:
    """Whether a model name is valid."""
    return MODEL_NAME.fullmatch(name) is not None
