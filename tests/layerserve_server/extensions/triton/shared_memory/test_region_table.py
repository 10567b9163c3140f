"""Which files become regions, and how many there may be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from layerserve_server.errors import InvalidRequestError, NotFoundError, QuotaError
from layerserve_server.extensions.triton.shared_memory import region_table
from layerserve_server.extensions.triton.shared_memory.region_table import RegionTable
from layerserve_server.services.prediction.places import Place
from pydantic import ValidationError

pytestmark = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="regions are files of /dev/shm")


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def table(now):
    return RegionTable(lambda: now[0])


def register(table: RegionTable, name: str, key: str | Path, size: int = 64, offset: int = 0, owner: str = "a") -> None:
    key = key.name if isinstance(key, Path) else key
    table.register(owner, name, key, offset=offset, size=size, user=os.geteuid())


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *((key, "invalid shm key") for key in ("", "/", "///", ".", "/..", "a/b", "../etc/passwd", "a\0b", "é" * 128)),
        ("/none-of-this-name", "No such file or directory"),
        ("a" * 255, "No such file or directory"),
    ],
)
def test_a_key_is_the_name_of_a_file_of_shared_memory(table, key, text):
    with pytest.raises(InvalidRequestError, match=text):
        register(table, "r", key)
    assert table.all("a") == []


def test_what_is_no_regular_file_of_the_caller_is_refused(table, shared):
    path = shared()
    with pytest.raises(InvalidRequestError, match="the file belongs to another user"):
        table.register("a", "r", path.name, offset=0, size=64, user=os.geteuid() + 1)
    path.unlink()
    path.symlink_to(Path(__file__))
    with pytest.raises(InvalidRequestError, match="symbolic links"):
        register(table, "r", path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InvalidRequestError, match="it isn't a regular file"):
        register(table, "r", path)
    path.unlink()
    path.mkdir()
    try:
        with pytest.raises(InvalidRequestError, match="it isn't a regular file"):
            register(table, "r", path)
    finally:
        path.rmdir()
    if os.geteuid() == 0:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
        with pytest.raises(InvalidRequestError, match=r"it isn't a regular file|Permission denied"):
            register(table, "r", path)
    assert table.all("a") == []


@pytest.mark.parametrize(
    ("size", "offset", "text"),
    [
        (65, 0, "the file has 64 bytes, expected at least 65"),
        (64, 1, "expected at least 65"),
        (1, 64, "expected at least 65"),
        (2**64 - 1, 2, "invalid args"),
        (0, 0, "got a byte_size of 0"),
    ],
)
def test_a_region_is_within_its_file(table, shared, size, offset, text):
    with pytest.raises(InvalidRequestError, match=text):
        register(table, "r", shared(), size, offset)


def test_a_name_is_registered_once(table, shared):
    path = shared()
    register(table, "r", path)
    with pytest.raises(InvalidRequestError, match="shared memory region 'r' already in manager"):
        register(table, "r", path)
    register(table, "r", path, owner="b")
    table.unregister("a", "r")
    table.unregister("a", "r")
    assert (table.all("a"), [one.name for one in table.all("b")]) == ([], ["r"])
    for name in ("", "n" * 257):
        with pytest.raises(InvalidRequestError, match=f"name: got {len(name)} characters"):
            register(table, name, path)


def test_the_number_of_regions_is_limited_and_those_without_a_file_go_first(table, shared, monkeypatch, now):
    path, gone = shared(), shared()
    refused = 0
    for number in range(10_000):
        try:
            register(table, f"r{number}", path)
        except QuotaError:
            refused += 1
    assert (refused, len(table.all("a"))) == (10_000 - 256, 256)
    monkeypatch.setattr(region_table, "MAX_REGIONS", 258)
    now[0] += 1
    register(table, "one", gone, owner="b")
    register(table, "two", path, owner="b")
    with pytest.raises(QuotaError, match="258 of all"):
        register(table, "three", path, owner="b")
    gone.unlink()
    # The files are looked at once a second.
    with pytest.raises(QuotaError):
        register(table, "three", path, owner="b")
    now[0] += 1
    register(table, "three", path, owner="b")
    assert [one.name for one in table.all("b")] == ["two", "three"]
    with pytest.raises(NotFoundError):
        table.find("b", "one")


def test_other_systems_have_no_such_files(monkeypatch, tmp_path):
    from layerserve_server.extensions.installed import Settings

    monkeypatch.setattr("sys.platform", "darwin")
    assert Settings(path=tmp_path).system_shared_memory == "off"
    with pytest.raises(ValidationError, match="regions are files of /dev/shm"):
        Settings(path=tmp_path, system_shared_memory="read")


def test_the_native_transport_of_several_processes_tells_no_client(tmp_path):
    from layerserve_server.extensions.installed import Settings

    assert Settings(path=tmp_path, system_shared_memory="read", transport="native").workers == 1
    with pytest.raises(ValidationError, match="requires transport 'grpcio'"):
        Settings(path=tmp_path, system_shared_memory="read", transport="native", workers=2)


def test_a_full_memory_is_an_error_of_the_request(table, shared, monkeypatch):
    path = shared()
    register(table, "r", path)
    region = table.find("a", "r")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(InvalidRequestError, match="No space left on device"):
        region.write(Place("r", 0, 8), memoryview(bytes(8)))
