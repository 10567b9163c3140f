"""Arrays in files: .npy, .npz and JSON, read and written."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from layerserve.cli.output import plain
from layerserve.errors import InvalidArgument
from layerserve.server_file import ServerFile

STDIN = "-"
#: What a path begins with that is not here but below the server's data root.
SERVER = "server:"


def read_arrays(arguments: Sequence[str], names: Callable[[], Collection[str]] | None = None) -> Any:
    """What `--input`, `--x` and their like name: a dict by name, or one value without a name.

    Each argument is PATH or NAME=PATH. A path is a .npy file; a .npz file, of which PATH:KEY picks one array, and which
    without a key gives all of its arrays by their names if they are several; a .json file, or "-" for JSON on standard
    input: an object of values by name, or one value. `server:PATH` and `server:PATH:KEY` name files that the server
    reads. Raises InvalidArgument for what is none of these.

    `names` tells which arrays are of use, and is called where a .npz file gives several: others in it, such as labels
    beside the inputs, are passed over with a note on standard error.
    """
    named: dict[str, Any] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        value = _read(path if equals else argument)
        if equals:
            if isinstance(value, dict):
                raise InvalidArgument(
                    f"{path}: got {len(value)} arrays for {name!r}, expected one; pick it by PATH:KEY"
                )
            _add(named, name, value)
        elif isinstance(value, dict):
            if names is not None and Path(path or argument).suffix == ".npz":
                value = _of_use(argument, value, names())
            for key, item in value.items():
                _add(named, key, item)
        elif len(arguments) == 1:
            return value
        else:
            raise InvalidArgument(f"{argument}: got several arrays, one of them without a name, expected NAME=PATH")
    return named


def _of_use(path: str, arrays: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The arrays with these names; all where none has: then they are misspelt, which the model's names show best."""
    used = {name: array for name, array in arrays.items() if name in names}
    if not used:
        return arrays
    if others := [name for name in arrays if name not in used]:
        print(f"layerserve: {path}: not inputs of the model, ignored: {', '.join(others)}", file=sys.stderr)
    return used


def _add(named: dict[str, Any], name: str, value: Any) -> None:
    if name in named:
        raise InvalidArgument(f"{name}: got several arrays with this name, expected one")
    named[name] = value


def _read(path: str) -> Any:
    if path.startswith(SERVER):
        file, _, key = path.removeprefix(SERVER).partition(":")
        return ServerFile(file, key)
    if path == STDIN:
        return _parse(sys.stdin.read(), "standard input")
    file, colon, key = path.rpartition(":")
    if colon and file.endswith(".npz"):
        return _read_npz(file, key)
    suffix = Path(path).suffix
    if suffix == ".npz":
        return _read_npz(path, None)
    if suffix == ".npy":
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise InvalidArgument(f"{path}: got {error}, expected an array in .npy format") from None
    if suffix == ".json":
        return _parse(Path(path).read_text(), path)
    raise InvalidArgument(f"{path}: got {suffix or 'no suffix'}, expected .npy, .npz or .json, or - for standard input")


def _read_npz(path: str, key: str | None) -> Any:
    try:
        # Opened here: NumPy leaves a file open that turns out to be no archive.
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if key is None:
                arrays = {name: archive[name] for name in archive.files}
                return arrays if len(arrays) != 1 else next(iter(arrays.values()))
            if key not in archive.files:
                raise InvalidArgument(f"{path}: got key {key!r}, expected one of {', '.join(archive.files)}")
            return archive[key]
    except OSError:
        raise
    except InvalidArgument:
        raise
    except Exception as error:  # whatever zipfile and NumPy raise for a damaged archive
        raise InvalidArgument(f"{path}: got {error}, expected arrays in .npz format") from None


def _parse(text: str, source: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidArgument(
            f"{source}: got invalid JSON ({error}), expected an array or an object of arrays"
        ) from None
    return {str(name): item for name, item in value.items()} if isinstance(value, dict) else value


def write_arrays(path: Path, arrays: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    """Write arrays to a .npy file (one array), a .npz file, or `document` to a .json file."""
    if path.suffix == ".npy":
        if len(arrays) != 1:
            raise InvalidArgument(f"{path}: got {len(arrays)} outputs ({', '.join(arrays)}), expected one for .npy")
        np.save(path, _writable(next(iter(arrays.values()))))
    elif path.suffix == ".npz":
        # Not by savez, in which outputs called "file" or "allow_pickle" would clash with its parameters.
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, _writable(array), allow_pickle=False)
    elif path.suffix == ".json":
        path.write_text(json.dumps(plain(document), allow_nan=False) + "\n")
    else:
        raise InvalidArgument(f"{path}: got {path.suffix or 'no suffix'}, expected .npy, .npz or .json")


def _writable(array: Any) -> Any:
    """Strings as fixed-width bytes: object arrays can be saved only as pickles."""
    return array.astype("S") if array.dtype == object else array
