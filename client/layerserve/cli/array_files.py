"""Reading of arrays in .npy, .npz, JSON and table files, and writing to all but tables."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from layerserve.cli.output import plain
from layerserve.cli.slice_commands import source_of
from layerserve.cli.table_arrays import read_columns
from layerserve.errors import InvalidArgument
from layerserve.training.server_file import ServerFile
from layerserve.values.image_elements import image_elements
from layerserve.values.table_files.formats import FORMATS
from layerserve.values.tensor_spec import TensorSpec

STDIN = "-"
#: Prefix of paths below the server's data root.
SERVER = "server:"
#: Suffixes of image files.
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


def read_arrays(
    arguments: Sequence[str], specs: Callable[[], Sequence[TensorSpec]] | None = None, fill: str | None = None
) -> Any:
    """Reads the arguments of `--input`, `--x` and similar options. Returns a dict by name, or one value without a name.

    Each argument is PATH or NAME=PATH. A path is an image, of which several for one input are its rows; a .npy file; a
    .npz file, with PATH:KEY for one of its arrays; a .json file, or "-" for JSON on standard input, with an object of
    values by name or a single value. A .npz file with several arrays and no key gives all of them by name. So does a
    table, .csv, .tsv or .parquet; in PATH:KEY the key is a list of columns. `server:PATH` and `server:PATH:KEY` are
    files of the server, `dataset:ID:KEY` arrays of a dataset. Raises InvalidArgument for other arguments, and OSError.

    `specs` returns the model's inputs, or its outputs; it is called for a table, and if a .npz file has several arrays.
    Other arrays and columns in the file, such as labels, are ignored, those of a .npz file with a note on standard
    error. `fill` is read in place of missing values of tables.
    """
    named: dict[str, Any] = {}
    images, arguments = _images(arguments)
    if images.keys() == {""} and not arguments:
        return images[""]
    if "" in images:
        raise InvalidArgument("got an image without a name beside other arrays, expected NAME=PATH")
    for name, value in images.items():
        _add(named, name, value)
    for argument in arguments:
        name, equals, path = argument.partition("=")
        value = _read(path if equals else argument, name if equals else "", specs, fill)
        if equals:
            if isinstance(value, dict):
                raise InvalidArgument(
                    f"{path}: got {len(value)} arrays for {name!r}, expected one; pick it by PATH:KEY"
                )
            _add(named, name, value)
        elif isinstance(value, dict):
            if specs is not None and Path(path or argument).suffix == ".npz":
                value = _of_use(argument, value, {spec.name for spec in specs()})
            for key, item in value.items():
                _add(named, key, item)
        elif len(arguments) == 1 and not images:
            return value
        else:
            raise InvalidArgument(f"{argument}: got several arrays, one of them without a name, expected NAME=PATH")
    return named


def _images(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the contents of image files by name of input, empty for none, and the other arguments."""
    paths: dict[str, list[Path]] = {}
    others = []
    for argument in arguments:
        name, equals, path = argument.partition("=")
        place = Path(path if equals else argument)
        if place.suffix.lower() in IMAGES and not str(place).startswith(SERVER):
            paths.setdefault(name if equals else "", []).append(place)
        else:
            others.append(argument)
    return {name: image_elements(of_name) for name, of_name in paths.items()}, others


def _of_use(path: str, arrays: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Returns the arrays with these names. If there are none, returns all: their error lists the model's names."""
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


def _read(path: str, name: str, specs: Callable[[], Sequence[TensorSpec]] | None, fill: str | None) -> Any:
    if path.startswith(SERVER):
        file, _, key = path.removeprefix(SERVER).partition(":")
        is_table = Path(file).suffix in FORMATS or file.endswith("/")
        return ServerFile(file, key, fill=fill if is_table else None)
    if (source := source_of(path)) is not None:
        return source.array(path.removeprefix(source.prefix), fill)
    if path == STDIN:
        return _parse(sys.stdin.read(), "standard input")
    file, colon, key = path.rpartition(":")
    if colon and file.endswith(".npz"):
        return _read_npz(file, key)
    table = file if colon and file.endswith(tuple(FORMATS)) else path
    if table.endswith(tuple(FORMATS)):
        return read_columns(table, key if table is file else "", name, specs() if specs is not None else (), fill)
    suffix = Path(path).suffix
    if suffix == ".npz":
        return _read_npz(path, None)
    if suffix == ".npy":
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise _unreadable(path, error, "an array in .npy format") from None
    if suffix == ".json":
        return _parse(Path(path).read_text(), path)
    known = ".npy, .npz, .csv, .tsv, .parquet or .json, an image, or - for standard input"
    raise InvalidArgument(f"{path}: got {suffix or 'no suffix'}, expected {known}")


def _read_npz(path: str, key: str | None) -> Any:
    try:
        # Opened here, since NumPy doesn't close a file that isn't an archive.
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if key is None:
                arrays = {name: archive[name] for name in archive.files}
                return arrays if len(arrays) != 1 else next(iter(arrays.values()))
            if key not in archive.files:
                raise InvalidArgument(f"{path}: got key {key!r}, expected one of {', '.join(archive.files)}")
            return archive[key]
    except (OSError, InvalidArgument):
        raise
    except Exception as error:  # zipfile and NumPy raise many kinds of errors for a corrupt archive
        raise _unreadable(path, error, "arrays in .npz format") from None


def _unreadable(path: str, error: Exception, expected: str) -> InvalidArgument:
    """Returns the error for a file that NumPy can't read."""
    # NumPy's own text advises to load it as a pickle, which runs code of the file.
    pickled = "pickle" in str(error) or "Python objects" in str(error)
    got = "Python objects, or another kind of file" if pickled else f"a damaged file ({error})"
    return InvalidArgument(f"{path}: got {got}, expected {expected}")


def _parse(text: str, source: str) -> Any:
    if not text.strip():
        raise InvalidArgument(f"{source}: got nothing, expected JSON: an array or an object of arrays")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidArgument(
            f'{source}: got invalid JSON ({error}), expected an array or an object of arrays, with text in "quotes"'
        ) from None
    return {str(name): item for name, item in value.items()} if isinstance(value, dict) else value


def write_arrays(path: Path, arrays: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    """Writes arrays to a .npy file (one array) or a .npz file, or `document` to a .json file.

    Raises InvalidArgument for another suffix, or several arrays for .npy, and OSError.
    """
    if path.suffix == ".npy":
        if len(arrays) != 1:
            raise InvalidArgument(f"{path}: got {len(arrays)} outputs ({', '.join(arrays)}), expected one for .npy")
        np.save(path, _writable(next(iter(arrays.values()))))
    elif path.suffix == ".npz":
        # Not with savez, where outputs named "file" or "allow_pickle" would clash with its parameters.
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, _writable(array), allow_pickle=False)
    elif path.suffix == ".json":
        path.write_text(json.dumps(plain(document), allow_nan=False) + "\n")
    else:
        raise InvalidArgument(f"{path}: got {path.suffix or 'no suffix'}, expected .npy, .npz or .json")


def _writable(array: Any) -> Any:
    """Converts strings to fixed-width bytes, since object arrays can be saved as pickles only."""
    return array.astype("S") if array.dtype == object else array
