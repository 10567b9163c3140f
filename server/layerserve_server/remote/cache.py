"""The copies of a store's versions, in a folder below the state folder.

```
models/NAME/VERSION/           a version's files, put there by a rename; the repository reads this folder
models/NAME/labels.json        copies of the small objects beside the version folders
kept/NAME@VERSION              for each version in `models`: the identity of what was fetched; its time is the last use
listing.json                   the last listing of the store, and why versions couldn't be fetched
wanted/NAME@VERSION            versions that other processes of this server wait for
unfinished/                    what is being fetched
lock                           held by the process that fetches
```
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from layerserve_server.disk import json_object, replace_file, sync
from layerserve_server.records import DAMAGED
from layerserve_server.remote.listing import Key, Listing

_KEY = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)@(?P<version>[1-9][0-9]{0,17})")


class Cache:
    """The folder. One process changes it, others read. Methods that write raise OSError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = folder / "models"
        self._lock: int | None = None

    def lock(self) -> bool:
        """Makes the folder, and takes the right to change it, until `unlock`. Returns whether this process has it."""
        for name in ("models", "kept", "wanted", "unfinished"):
            part = self.folder / name
            # What is in these folders is removed: behind a link it isn't the server's.
            if part.is_symlink():
                raise OSError(f"{part}: got a symbolic link, expected a folder")
            part.mkdir(parents=True, exist_ok=True)
        # The same if the folder itself is a link to one that has models already.
        if not (self.folder / "lock").exists() and any(self.models.iterdir()):
            raise OSError(f"{self.models}: got models that aren't copies of a store's, expected a folder of its own")
        handle = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._lock = handle
        return True

    def unlock(self) -> None:
        """Gives the right back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def clean(self) -> None:
        """Removes what a killed process has left: unfinished copies, and copies that aren't known to be whole.

        A link is no copy. It is removed, what it leads to stays.
        """
        for left in (self.folder / "unfinished").iterdir():
            shutil.rmtree(left, ignore_errors=True)
        kept = self.kept()
        for model in _without_links(self.models):
            for version in _without_links(model) if model.is_dir() else ():
                if version.is_dir() and (model.name, _number(version.name)) not in kept:
                    shutil.rmtree(version, ignore_errors=True)

    def kept(self) -> dict[Key, str]:
        """Returns the identities of the versions in the folder."""
        found = {}
        for key in _keys(self.folder / "kept"):
            with suppress(OSError, ValueError):
                if self.place(key).is_dir():
                    found[key] = (self.folder / "kept" / _file(key)).read_text("utf-8")
        return found

    def place(self, key: Key) -> Path:
        """Returns the folder of a version, whether it exists or not."""
        return self.models / key[0] / str(key[1])

    def size(self, key: Key) -> int:
        """Returns the size of a version's files, in bytes; 0 if it isn't there."""
        return sum(path.lstat().st_size for path in self.place(key).rglob("*") if path.is_file())

    def unfinished(self) -> Path:
        """Returns a new folder to fetch into, on the filesystem of the others."""
        folder = self.folder / "unfinished" / secrets.token_hex(8)
        folder.mkdir()
        return folder

    def put(self, key: Key, unfinished: Path, identity: str) -> None:
        """Moves a fetched folder to its place, instead of an earlier copy."""
        for path in (*unfinished.rglob("*"), unfinished):
            sync(path)
        place, mark = self.place(key), self.folder / "kept" / _file(key)
        place.parent.mkdir(parents=True, exist_ok=True)
        # In this order: a copy without a mark is fetched again, a mark is never that of another copy.
        away = self._take_away(key)
        # At once, since a scan in between would miss the version.
        unfinished.rename(place)
        shutil.rmtree(away, ignore_errors=True)
        sync(place.parent)
        replace_file(mark, identity)

    def remove(self, key: Key) -> None:
        """Removes a version's copy, if there is one."""
        shutil.rmtree(self._take_away(key), ignore_errors=True)

    def _take_away(self, key: Key) -> Path:
        """Moves a version's copy, if there is one, to the folder that is returned."""
        (self.folder / "kept" / _file(key)).unlink(missing_ok=True)
        away = self.folder / "unfinished" / secrets.token_hex(8)
        with suppress(FileNotFoundError):
            self.place(key).rename(away)
        return away

    def use(self, keys: Iterable[Key]) -> None:
        """Records that versions are in use now."""
        for key in keys:
            with suppress(OSError):
                os.utime(self.folder / "kept" / _file(key))

    def last_use(self, key: Key) -> float:
        """Returns the time of a version's last use, in seconds since 1970."""
        try:
            return (self.folder / "kept" / _file(key)).stat().st_mtime
        except OSError:
            return 0.0

    def free_bytes(self) -> int:
        """Returns the free space of the filesystem."""
        return shutil.disk_usage(self.folder).free

    # The listing, for other processes and the next start.

    def write_listing(self, listing: Listing, problems: Mapping[Key, str]) -> None:
        """Writes down the last listing, and why versions couldn't be fetched."""
        noted = {_file(key): text for key, text in problems.items()}
        replace_file(self.folder / "listing.json", json.dumps({**listing.as_json(), "problems": noted}))

    def read_listing(self) -> tuple[Listing, dict[Key, str]] | None:
        """Returns what `write_listing` has written; None if there is nothing that can be read."""
        try:
            values = json_object((self.folder / "listing.json").read_bytes())
            problems = {key: str(text) for name, text in values["problems"].items() if (key := _key(name)) is not None}
            return Listing.from_json(values), problems
        except DAMAGED:
            return None

    def listing_time(self) -> int:
        """Returns when the listing was written, in nanoseconds since 1970; 0 if it wasn't."""
        try:
            return (self.folder / "listing.json").stat().st_mtime_ns
        except OSError:
            return 0

    def write_of_model(self, path: str, text: str) -> None:
        """Writes the copy of a small object of a model, `NAME/FILE`."""
        (self.models / path).parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.models / path, text)

    def remove_of_model(self, path: str) -> None:
        """Removes such a copy."""
        (self.models / path).unlink(missing_ok=True)

    # Versions that other processes wait for.

    def ask(self, key: Key) -> None:
        """Asks the process that fetches for a version."""
        with suppress(OSError):
            (self.folder / "wanted" / _file(key)).touch()

    def asked(self) -> list[Key]:
        """Returns the versions that were asked for since the last call."""
        keys = list(_keys(self.folder / "wanted"))
        for key in keys:
            (self.folder / "wanted" / _file(key)).unlink(missing_ok=True)
        return keys


def _without_links(folder: Path) -> list[Path]:
    """Removes the symbolic links in a folder, and returns what else is in it."""
    paths = list(folder.iterdir())
    for path in paths:
        if path.is_symlink():
            path.unlink()
    return [path for path in paths if path.exists()]


def _keys(folder: Path) -> Iterable[Key]:
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        if (key := _key(name)) is not None:
            yield key


def _file(key: Key) -> str:
    return f"{key[0]}@{key[1]}"


def _key(name: str) -> Key | None:
    found = _KEY.fullmatch(name)
    return (found["name"], int(found["version"])) if found else None


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
