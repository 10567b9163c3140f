"""The copies of a store's versions, in a folder below the state folder.

```
models/NAME/VERSION/           a version's files, put there by a rename; the repository reads this folder
models/NAME/labels.json        copies of the small objects beside the version folders
kept/NAME@VERSION              for each version in `models`: the identity of what was fetched; its time is the last use
listing.jsonl                  the last listing of the store: a line of JSON for what concerns models, and why versions
                               couldn't be fetched, and one for each version
wanted/NAME@VERSION            versions that other processes of this server wait for
unfinished/                    what is being fetched
lock                           held by the process that fetches
```
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path

from layerserve_server.disk import json_object, replace_file, sync, try_lock
from layerserve_server.extensions.object_stores.objects import StoredObject
from layerserve_server.extensions.stores.listing import OF_MODELS, Key, Listing, RemoteVersion
from layerserve_server.records import DAMAGED, checked
from layerserve_server.repository.layout import VERSION_FOLDER

logger = logging.getLogger(__name__)

LISTING = "listing.jsonl"
_KEY = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)@(?P<version>[1-9][0-9]{0,17})")


class Cache:
    """The folder. One process changes it, others read. Methods that write raise OSError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = folder / "models"
        self._lock: TextIOWrapper | None = None
        #: What `write_listing` has written last.
        self._written: object = None

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
        self._lock = try_lock(self.folder / "lock")
        return self._lock is not None

    def unlock(self) -> None:
        """Gives the right back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def clean(self) -> None:
        """Removes what a killed process has left: unfinished copies, and copies that aren't known to be whole.

        What has no place in the folder, such as a file in place of a model, is removed, too, as it would be in the way.
        A link is no copy. It is removed, what it leads to stays.
        """
        for left in (*(self.folder / "unfinished").iterdir(), *(self.folder / "wanted").iterdir()):
            _remove(left)
        if (self.folder / LISTING).is_dir():
            _remove(self.folder / LISTING)
        kept = self.kept()
        for mark in (self.folder / "kept").iterdir():
            if _key(mark.name) not in kept:
                _remove(mark)
        for model in self.models.iterdir():
            if model.is_symlink() or not model.is_dir():
                _remove(model)
                continue
            for path in model.iterdir():
                is_copy = path.is_dir() and (model.name, _number(path.name)) in kept
                is_text = path.is_file() and not VERSION_FOLDER.fullmatch(path.name)
                if path.is_symlink() or not (is_copy or is_text):
                    _remove(path)

    def kept(self) -> dict[Key, str]:
        """Returns the identities of the versions in the folder. A mark that can't be read is none."""
        found = {}
        for key in _keys(self.folder / "kept"):
            with suppress(OSError, ValueError):
                if self.place(key).is_dir():
                    found[key] = (self.folder / "kept" / _file(key)).read_text("utf-8")
        return found

    def place(self, key: Key) -> Path:
        """Returns the folder of a version, whether it exists or not."""
        return self.models / key[0] / str(key[1])

    def files(self, key: Key) -> dict[str, int]:
        """Returns the sizes of a version's files, in bytes, by their paths in its folder; -1 for a link."""
        place = self.place(key)
        paths = [path for path in place.rglob("*") if path.is_symlink() or not path.is_dir()]
        return {path.relative_to(place).as_posix(): -1 if path.is_symlink() else path.stat().st_size for path in paths}

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
        """Writes down the last listing, and why versions couldn't be fetched, unless that is what is written."""
        written = dict(listing.versions), dict(listing.of_models), dict(problems)
        if written == self._written:
            return
        head = {
            "of_models": {path: one.as_json() for path, one in listing.of_models.items()},
            "problems": {_file(key): text for key, text in problems.items()},
            "versions": len(listing.versions),
        }
        # In lines: nothing else in the process runs while one is made or parsed.
        lines = [json.dumps(one) for one in (head, *(one.as_json() for one in listing.versions.values()))]
        replace_file(self.folder / LISTING, "\n".join(lines) + "\n")
        self._written = written

    def read_listing(self) -> tuple[Listing, dict[Key, str]] | None:
        """Returns what `write_listing` has written; None if there is nothing that can be read."""
        try:
            with (self.folder / LISTING).open(encoding="utf-8") as file:
                head, *others = map(json_object, file)
            versions = [RemoteVersion.from_json(one) for one in others]
            if len(versions) != head["versions"]:
                raise ValueError(f"got {len(versions)} versions, expected {head['versions']}")
            of_models = {path: checked(StoredObject(**one)) for path, one in head["of_models"].items()}
            problems = {key: str(text) for name, text in head["problems"].items() if (key := _key(name)) is not None}
            return Listing({one.key: one for one in versions}, of_models), problems
        except FileNotFoundError:
            return None
        except DAMAGED as error:
            logger.error("%s can't be read and isn't used: %s", self.folder / LISTING, error)
            return None

    def listing_time(self) -> int:
        """Returns when the listing was written, in nanoseconds since 1970; 0 if it wasn't."""
        try:
            return (self.folder / LISTING).stat().st_mtime_ns
        except OSError:
            return 0

    def write_of_model(self, path: str, text: str) -> None:
        """Writes the copy of a small object of a model, `NAME/FILE`."""
        (self.models / path).parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.models / path, text)

    def remove_of_model(self, path: str) -> None:
        """Removes such a copy."""
        (self.models / path).unlink(missing_ok=True)

    def of_models(self) -> list[str]:
        """Returns the paths of such copies."""
        paths = (path for model in self.models.iterdir() if model.is_dir() for path in model.iterdir())
        return [path.relative_to(self.models).as_posix() for path in paths if path.name in OF_MODELS]

    # Versions that other processes wait for.

    def ask(self, key: Key) -> None:
        """Asks the process that fetches for a version."""
        with suppress(OSError):
            (self.folder / "wanted" / _file(key)).touch()

    def asked(self) -> list[Key]:
        """Returns the versions that were asked for since the last call."""
        keys = list(_keys(self.folder / "wanted"))
        for key in keys:
            # A folder of that name, which isn't the server's, costs nothing.
            with suppress(OSError):
                (self.folder / "wanted" / _file(key)).unlink()
        return keys


def _remove(path: Path) -> None:
    """Removes a file, a folder or a link, as far as possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


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
