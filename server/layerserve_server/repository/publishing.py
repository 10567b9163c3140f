"""Putting a new version into a repository: all of it or nothing, whenever the power goes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from layerserve_server.repository.layout import FIRST_CHOICES, LABEL, LABELS, MANIFEST, MODEL_NAME, VERSION_FOLDER

#: A folder on its way to become a version: host and process that fill it, and what makes it unique.
TEMPORARY = re.compile(r"\.publish-(?P<host>[A-Za-z0-9.-]+)-(?P<pid>[0-9]+)-[0-9a-f]+")
#: Age at which a temporary folder of another host counts as left behind, in seconds.
STALE_SECONDS = 24 * 3600.0
#: Largest labels.json that is read, in bytes.
MAX_LABELS_BYTES = 64 * 1024
CHUNK = 1024 * 1024

#: Held while a label is written: the file is read, changed and replaced as a whole.
_labelling = threading.Lock()


def publish(root: Path, name: str, file: Path, facts: Mapping[str, Any], *, above: int = 0) -> int:
    """Moves a model file into `root` as the next version of the model, and gives the version's number.

    The number is one more than the highest on disk and than `above`. The version's folder appears by one rename, with a
    manifest (`facts`, and the file's sha256 and size). The file leaves its old place last, so that a publisher that is
    killed before can begin anew. Raises OSError where that can't be done, with nothing changed.
    """
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".publish-{host_name()}-{os.getpid()}-{secrets.token_hex(6)}"
    temporary.mkdir()
    try:
        target = temporary / (FIRST_CHOICES[0] if file.suffix == ".keras" else "model" + file.suffix)
        link_file(file, target)
        manifest = {**facts, "file": target.name, "bytes": target.stat().st_size, "sha256": sha256(target)}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")
        for path in (target, temporary / MANIFEST, temporary):
            sync(path)
        version = _claim(temporary, folder, above)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(folder)
    file.unlink()
    return version


def _claim(temporary: Path, folder: Path, above: int) -> int:
    """Renames to the next free number. The rename of a folder onto one that holds something fails, so it never
    overwrites, and of two publishers that choose the same number one goes on to the next."""
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


def version_numbers(folder: Path) -> list[int]:
    """Numbers of the versions in a model's folder."""
    return [int(name) for name in os.listdir(folder) if VERSION_FOLDER.fullmatch(name)]


def link_file(source: Path, target: Path) -> None:
    """Gives a file a second name; copies it where that can't be, as on another filesystem."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            raise
        shutil.copyfile(source, target)


def sweep(root: Path) -> list[Path]:
    """Removes what publishers that are gone have left in a repository; gives the folders removed."""
    removed = []
    for folder in _folders(root):
        for path in _folders(folder):
            match = TEMPORARY.fullmatch(path.name)
            if match and _left_behind(path, match["host"], int(match["pid"])):
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path)
    return removed


def _folders(root: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _left_behind(path: Path, host: str, pid: int) -> bool:
    if host == host_name():
        # Our own number: of a process before us, as this one hasn't published yet.
        return pid == os.getpid() or not process_lives(pid)
    try:
        return time.time() - path.stat().st_mtime > STALE_SECONDS
    except OSError:
        return False


def host_name() -> str:
    """Name of this host, in letters that a file name can have."""
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()) or "host"


def process_lives(pid: int) -> bool:
    """Whether a process of this host is there and runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def read_labels(folder: Path) -> dict[str, int]:
    """The labels of the model in a folder. What isn't a right label is left out; no file means no labels."""
    try:
        handle = os.open(folder / LABELS, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return {}
    with os.fdopen(handle, "rb") as file:
        try:
            labels = json.loads(file.read(MAX_LABELS_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
    if not isinstance(labels, dict):
        return {}
    return {
        label: version
        for label, version in labels.items()
        if LABEL.fullmatch(label) and type(version) is int and version > 0
    }


def write_label(folder: Path, label: str, version: int) -> None:
    """Points a label at a version, in one step. Raises OSError where that can't be done, with nothing changed."""
    temporary = folder / f".{LABELS}-{secrets.token_hex(6)}"
    with _labelling, _locked(folder):
        try:
            temporary.write_text(json.dumps({**read_labels(folder), label: version}, indent=1), "utf-8")
            sync(temporary)
            os.replace(temporary, folder / LABELS)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing labels meanwhile, where the filesystem has locks for folders."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in a version's folder; empty where there is none, or none that can be read."""
    try:
        handle = os.open(folder / MANIFEST, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            manifest = json.loads(file.read(MAX_LABELS_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def check_manifest(path: Path, manifest: Mapping[str, Any]) -> str:
    """What is wrong with a published file by its manifest: a text, or nothing."""
    size = path.stat().st_size
    if manifest.get("bytes", size) != size:
        return f"{path.name} has {size} bytes, and its manifest says {manifest['bytes']}"
    if "sha256" in manifest and manifest["sha256"] != sha256(path):
        return f"{path.name} isn't the file that its manifest describes: another sha256"
    return ""


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def valid_name(name: str) -> bool:
    """Whether a model may have this name."""
    return MODEL_NAME.fullmatch(name) is not None
