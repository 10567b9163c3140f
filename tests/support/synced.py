"""What is brought to the disk, and when files take others' places."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """A list that grows as things happen.

    ("sync", bytes) for a file that is brought to the disk with so many bytes, ("sync folder", inode) for a folder, and
    ("replace", name) for a file that takes the place of that name.
    """
    events: list[tuple[str, Any]] = []
    sync, replace = os.fsync, os.replace

    def recorded_sync(descriptor: Any) -> None:
        status = os.fstat(descriptor)
        folder = stat.S_ISDIR(status.st_mode)
        events.append(("sync folder", status.st_ino) if folder else ("sync", status.st_size))
        sync(descriptor)

    def recorded_replace(source: Any, target: Any) -> None:
        events.append(("replace", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    return events


class Disk:
    """What a machine that loses power has on its disk: bytes, and names, that were flushed.

    A name is in a folder for good when the folder is flushed after it. What takes a name must be flushed before that:
    otherwise the name is of an empty file.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        #: What took its name by a move, in order.
        self.taken: list[Path] = []
        #: Bytes of files, and names in folders, when they were flushed last, by inode.
        self._flushed: dict[int, bytes | list[str]] = {}
        #: Names that came into folders that haven't been flushed since, with the inodes of the folders.
        self._names: dict[Path, int] = {}
        #: Names that left folders, in the same way.
        self._left: dict[Path, int] = {}
        #: What wasn't flushed when something took a name, by the name.
        self._early: dict[Path, list[str]] = {}
        self._sync = os.fsync
        monkeypatch.setattr(os, "fsync", self._fsync)
        for name in ("replace", "rename"):
            monkeypatch.setattr(os, name, self._moving(getattr(os, name)))
        make = os.mkdir

        def mkdir(path: Any, *options: Any, **named: Any) -> None:
            make(path, *options, **named)
            self._came(Path(path))

        monkeypatch.setattr(os, "mkdir", mkdir)
        unlink = os.unlink

        def unlinked(path: Any, **named: Any) -> None:
            unlink(path, **named)
            if "dir_fd" not in named:
                self._gone(Path(path))

        monkeypatch.setattr(os, "unlink", unlinked)

    def flushed_bytes(self, path: Path) -> int:
        """Size of a file when it was flushed last."""
        return len(self._flushed.get(path.stat().st_ino, b""))

    def lost(self, *paths: Path) -> list[str]:
        """What of these files and folders a power failure would take now, or would have taken before."""
        found = []
        for path in paths:
            assert path.exists(), path
            found += self._early.get(path, [])
            files = [path] if path.is_file() else [inside for inside in path.rglob("*") if inside.is_file()]
            found += [f"{one.name}: its bytes" for one in files if not self._is_flushed(one)]
            found += [f"{one.name}: its name" for one in (path, *path.parents) if one in self._names]
        return found

    def gone(self, *paths: Path) -> bool:
        """Whether these files and folders are gone for good."""
        return not any(path.exists() or path in self._left for path in paths)

    def _is_flushed(self, path: Path) -> bool:
        return self._flushed.get(path.stat().st_ino) == _content(path)

    def _fsync(self, descriptor: int) -> None:
        inode = os.fstat(descriptor).st_ino
        self._flushed[inode] = _content(Path(f"/proc/self/fd/{descriptor}"))
        for names in (self._names, self._left):
            for path in [path for path, folder in names.items() if folder == inode]:
                del names[path]
        self._sync(descriptor)

    def _came(self, path: Path) -> None:
        self._names[path] = path.parent.stat().st_ino

    def _gone(self, path: Path) -> None:
        self._names.pop(path, None)
        self._left[path] = path.parent.stat().st_ino

    def _moving(self, move: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def moved(source: Any, target: Any) -> None:
            source, target = Path(source), Path(target)
            below = [source, *source.rglob("*")] if source.is_dir() else [source]
            inside = [one.relative_to(source).as_posix() for one in below if not self._is_flushed(one)]
            early = [f"{target.name}: {path} before it has that name" for path in inside]
            move(source, target)
            self._early[target] = early
            self.taken.append(target)
            self._gone(source)
            self._came(target)

        return moved


def _content(path: Path) -> bytes | list[str]:
    return sorted(os.listdir(path)) if path.is_dir() else path.read_bytes()
