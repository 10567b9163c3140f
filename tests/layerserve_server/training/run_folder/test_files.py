"""Only what callbacks have written can be had from a run's folder."""

from __future__ import annotations

import io
import os

import pytest
from layerserve_server.errors import NotFoundError
from layerserve_server.training.run_folder import files as run_files
from layerserve_server.training.run_folder.files import chunks, listed, opened


@pytest.fixture(name="folder")
def _folder(tmp_path):
    (tmp_path / "request.json").write_text("secret")
    files = tmp_path / "files"
    (files / "logs" / "train").mkdir(parents=True)
    (files / "log.csv").write_bytes(b"epoch\n")
    (files / "logs" / "train" / "events.1").write_bytes(b"12345")
    (files / ".log.csv.0123.tmp").write_bytes(b"torn")
    (files / "link").symlink_to(tmp_path / "request.json")
    os.mkfifo(files / "pipe")
    return files


def test_whole_regular_files_are_listed(folder):
    assert [(file.name, file.bytes) for file in listed(folder)] == [("log.csv", 6), ("logs/train/events.1", 5)]
    assert listed(folder / "none") == []


@pytest.mark.parametrize(
    "name", ["../request.json", "link", "pipe", ".log.csv.0123.tmp", "logs", "logs/../log.csv", "./log.csv", "", "/"]
)
def test_nothing_else_is_opened(folder, name):
    with pytest.raises(NotFoundError, match="the run has no file"):
        opened(folder, name)


def test_a_file_is_read_as_it_was_when_it_was_opened(folder, monkeypatch):
    monkeypatch.setattr(run_files, "CHUNK", 2)
    described, file = opened(folder, "logs/train/events.1")
    with file, (folder / "logs" / "train" / "events.1").open("ab") as more:
        more.write(b"678")
        more.flush()
        assert list(chunks(file, described.bytes)) == [b"12", b"34", b"5"]
    assert list(chunks(io.BytesIO(b"12"), 5)) == [b"12"]


def test_a_file_that_goes_as_it_is_opened_is_named(folder, monkeypatch):
    found = listed(folder)
    monkeypatch.setattr(run_files, "listed", lambda _: found)
    (folder / "log.csv").unlink()
    with pytest.raises(NotFoundError, match=r"file 'log.csv' can't be read: No such file or directory"):
        opened(folder, "log.csv")


def test_only_so_many_files_are_listed(folder, monkeypatch):
    monkeypatch.setattr(run_files, "MAX_FILES", 3)
    for number in range(9):
        (folder / f"{number}.txt").touch()
    names = [file.name for file in listed(folder)]
    assert len(names) == 3
    assert names == sorted(names)
