"""Parquet files as runs read them: by row groups, of a file, a folder or a store, below the data root only."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from layergraph.training import row_groups
from layerserve.values.table_files.table import Selection
from layerserve_server.datasets import data_store, parquet_data, reader
from layerserve_server.datasets.data_file import DataFile
from layerserve_server.datasets.parquet_data import ParquetData
from layerserve_server.errors import (
    ForbiddenPathError,
    InvalidRequestError,
    InvalidTensorError,
    TooLargeError,
    UnavailableError,
)
from peak_memory import PeakMemory
from pyarrow import parquet

ROWS = slice(0, 100)


def write(path: Path, rows: int = 10, group: int = 4, start: int = 0, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = np.arange(start, start + rows)
    texts = [f"t{number}" for number in numbers]
    table = pyarrow.table({"a": numbers * 0.5, "b": numbers, "text": texts, **columns})
    parquet.write_table(table, path, row_group_size=group)


@pytest.fixture(name="root", params=["disk", "store"])
def _root(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A data root, and the folder to write its files to: for a store, they are copied there by `opened`."""
    folder = tmp_path / "root"
    folder.mkdir()
    return (str(folder) if request.param == "disk" else f"memory://{tmp_path.name}-{id(tmp_path)}"), folder


def file_of(root: tuple[str, Path], path: str) -> DataFile:
    """A file of the root, after what was written was copied to it."""
    address, folder = root
    if data_store.is_address(address):
        import fsspec

        store = fsspec.filesystem("memory")
        name = address.removeprefix("memory://")
        files = [one for one in folder.rglob("*.parquet") if one.is_file()]
        written = {f"/{name}/{one.relative_to(folder).as_posix()}": one.read_bytes() for one in files}
        for gone in {*store.find(name)} - written.keys():
            store.rm(gone)
        for path_there, content in written.items():
            if not store.exists(path_there) or store.cat(path_there) != content:
                store.pipe_file(path_there, content)
    return DataFile(address, path)


def read(file: DataFile, *columns: str, **options: Any) -> Any:
    selections = [Selection(tuple(column.split(",")), **options) for column in columns]
    described, arrays = reader.describe(file, selections)
    return ParquetData(described).grouped(arrays)


def test_a_folder_is_its_files_in_order_without_hidden_ones(root: tuple[str, Path]) -> None:
    _, folder = root
    write(folder / "data" / "part-1.parquet", 7, 3, start=10)
    write(folder / "data" / "part-0.parquet", 10, 4)
    write(folder / "data" / "sub" / "part-2.parquet", 3, 3, start=17)
    write(folder / "data" / "empty.parquet", 0, 3)
    write(folder / "data" / "_temporary" / "x.parquet")
    write(folder / "data" / ".old.parquet")
    (folder / "data" / "_SUCCESS").touch()
    numbers, both, text = read(file_of(root, "data/"), "b", "a,b", "text")
    assert numbers.take(ROWS).tolist() == list(range(20))
    assert both.take(slice(15, 18)).tolist() == [[7.5, 15], [8, 16], [8.5, 17]]
    assert text.take(slice(9, 11)).tolist() == [b"t9", b"t10"]
    assert (np.diff(numbers.groups.ends, prepend=0)).tolist() == [4, 4, 2, 3, 3, 1, 3]


def test_a_file_is_its_row_groups(root: tuple[str, Path]) -> None:
    write(root[1] / "one.parquet")
    (numbers,) = read(file_of(root, "one.parquet"), "b")
    assert numbers.take(ROWS).tolist() == list(range(10))
    assert numbers.groups.ends.tolist() == [4, 8, 10]


def test_what_is_no_number_is_named_by_file_row_group_and_row(
    root: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root[1] / "data" / "0.parquet", c=[1.0] * 10)
    write(root[1] / "data" / "1.parquet", c=[1.0] * 6 + [None] + [1.0] * 3)
    place = "data file 'data/1.parquet', row group 1, column 'c', row 7: got no value"
    with pytest.raises(InvalidTensorError, match=place):
        read(file_of(root, "data/"), "c")
    # One that is too large to be read before the run.
    monkeypatch.setattr(reader, "COUNTED_BYTES", 0)
    (array,) = read(file_of(root, "data/"), "c")
    assert array.take(slice(0, 14)).tolist() == [1.0] * 14
    with pytest.raises(InvalidTensorError, match=place):
        array.take(slice(0, 20))
    (array,) = read(file_of(root, "data/"), "c", fill="2.5")
    assert array.take(slice(15, 18)).tolist() == [1, 2.5, 1]


def test_a_file_that_changes_or_goes_ends_the_reading(root: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "HELD_BYTES", 1)
    _, folder = root
    write(folder / "data" / "0.parquet")
    write(folder / "data" / "1.parquet", start=10)
    (array,) = read(file_of(root, "data/"), "b")
    described, _ = reader.describe(file_of(root, "data/"), [Selection(("b",))])
    write(folder / "data" / "1.parquet", start=11)
    os.utime(folder / "data" / "1.parquet", ns=(0, 0))
    file_of(root, "data/")
    assert array.take(slice(0, 10)).tolist() == list(range(10))
    text = "data file 'data/1.parquet' has changed since the run was accepted; row group 0 can't be read"
    with pytest.raises(InvalidRequestError, match=text):
        array.take(slice(10, 12))
    with pytest.raises(InvalidRequestError, match="data folder 'data/' has changed since the run was accepted"):
        ParquetData(described)
    (folder / "data" / "1.parquet").unlink()
    file_of(root, "data/")
    with pytest.raises(InvalidRequestError, match=r"data file 'data/1.parquet': .*; row group 1 can't be read"):
        array.take(slice(14, 16))


def test_files_of_other_columns_are_refused(root: tuple[str, Path]) -> None:
    _, folder = root
    write(folder / "data" / "0.parquet", c=[1.0] * 10, d=[[1, 2]] * 10)
    write(folder / "data" / "1.parquet")
    match = "data file 'data/1.parquet': got columns a, b, text; expected c, too, as in data file 'data/0.parquet'"
    with pytest.raises(InvalidRequestError, match=match):
        read(file_of(root, "data/"), "c")
    write(folder / "data" / "1.parquet", c=["x"] * 10, d=[1] * 10)
    with pytest.raises(InvalidTensorError, match=r"data/1.parquet', columns c: got string, expected float64, as in"):
        read(file_of(root, "data/"), "c")
    with pytest.raises(InvalidTensorError, match=r"data/1.parquet', column 'd': got other lists than in"):
        read(file_of(root, "data/"), "d")
    with pytest.raises(InvalidRequestError, match=r"data/0.parquet': unknown column 'e'; the file has"):
        read(file_of(root, "data/"), "e")


def test_lists_have_one_length_in_all_files(root: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "COUNTED_BYTES", 0)
    write(root[1] / "data" / "0.parquet", d=[[1, 2]] * 10)
    write(root[1] / "data" / "1.parquet", d=[[1, 2]] * 9 + [[1, 2, 3]])
    (array,) = read(file_of(root, "data/"), "d")
    assert array.shape == (20, 2)
    with pytest.raises(InvalidTensorError, match=r"1.parquet', row group 2, column 'd', row 10: got a list of 3"):
        array.take(slice(19, 20))


@pytest.mark.parametrize("path", ["../x/", "data/../../x.parquet", "/etc/", "a//b.parquet", ".layerserve/", "./", "/"])
def test_nothing_outside_of_the_root_is_read(root: tuple[str, Path], path: str) -> None:
    with pytest.raises(ForbiddenPathError, match="expected a path below the data root"):
        reader.describe(file_of(root, path), [Selection()])


def test_links_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "outside" / "0.parquet")
    (tmp_path / "root" / "data").mkdir(parents=True)
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "outside")
    (tmp_path / "root" / "data" / "0.parquet").symlink_to(tmp_path / "outside" / "0.parquet")
    root = str(tmp_path / "root")
    for path, text in (("linked/", "'linked' is a symbolic link"), ("data/", "'0.parquet' is a symbolic link")):
        with pytest.raises(ForbiddenPathError, match=text):
            reader.describe(DataFile(root, path), [Selection()])
    (tmp_path / "root" / "data" / "0.parquet").unlink()
    (tmp_path / "root" / "data" / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(InvalidRequestError, match=r"got no .parquet file in it, expected 1 or more"):
        reader.describe(DataFile(root, "data/"), [Selection()])


def test_a_folder_needs_a_slash_at_its_end(root: tuple[str, Path]) -> None:
    write(root[1] / "data.parquet" / "0.parquet")
    (numbers,) = read(file_of(root, "data.parquet/"), "b")
    assert len(numbers) == 10
    with pytest.raises(InvalidRequestError, match=r"got no suffix, expected .*, or '/' at the end of a folder"):
        file_of(root, "data").check()
    with pytest.raises(InvalidRequestError, match=r"data folder 'none/': .*"):
        read(file_of(root, "none/"), "b")


def test_a_folder_on_disk_is_not_taken_for_a_file(tmp_path: Path) -> None:
    write(tmp_path / "data.parquet" / "0.parquet")
    with pytest.raises(InvalidRequestError, match="expected a regular file; name a folder with '/' at its end"):
        reader.describe(DataFile(str(tmp_path), "data.parquet"), [Selection()])


def test_a_store_has_parquet_files_only() -> None:
    with pytest.raises(InvalidRequestError, match=r"data file 'a.csv': got .csv in a store, expected .parquet"):
        DataFile("memory://bucket", "a.csv").check()


def test_a_group_that_takes_too_much_memory_is_refused(root: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    write(root[1] / "one.parquet", 1000, 1000)
    file = file_of(root, "one.parquet")
    monkeypatch.setattr(parquet_data, "MAX_GROUP_BYTES", 7999)
    with pytest.raises(TooLargeError, match="row group 0: got 8000 bytes of 1000 rows, expected at most 7999"):
        read(file, "b")
    # A few bytes in the file, and much text.
    words = pyarrow.DictionaryArray.from_arrays(np.zeros(1000, np.int32), ["x" * 100_000])
    write(root[1] / "one.parquet", 1000, 1000, words=words)
    file = file_of(root, "one.parquet")
    monkeypatch.setattr(parquet_data, "MAX_GROUP_BYTES", 5_000_000)
    (array,) = read(file, "words")
    with PeakMemory() as memory, pytest.raises(TooLargeError, match="got more than 5000000 bytes of text"):
        array.take(slice(0, 1))
    assert memory.growth < 50_000_000


def test_a_file_that_ends_early_is_refused(root: tuple[str, Path]) -> None:
    write(root[1] / "data" / "0.parquet")
    content = (root[1] / "data" / "0.parquet").read_bytes()
    (root[1] / "data" / "1.parquet").write_bytes(content[:-20])
    with pytest.raises(InvalidRequestError, match=r"data file 'data/1.parquet': "):
        read(file_of(root, "data/"), "b")


def test_a_store_that_can_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    def broken(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(MemoryFileSystem, "info", broken)
    monkeypatch.setattr(MemoryFileSystem, "find", broken)
    monkeypatch.setattr(MemoryFileSystem, "open", broken)
    for path in ("data/", "one.parquet"):
        with pytest.raises(UnavailableError, match=f"{path}': the store can't be read: no route to host"):
            reader.describe(DataFile("memory://bucket", path), [Selection()])


def test_arrays_are_as_they_were_described(tmp_path: Path) -> None:
    write(tmp_path / "one.parquet")
    file, (array,) = reader.describe(DataFile(str(tmp_path), "one.parquet"), [Selection(("b",))])
    with pytest.raises(InvalidTensorError, match="got 10 rows, expected 11"):
        ParquetData(replace(file, stamp=())).grouped([replace(array, shape=(11,))])
