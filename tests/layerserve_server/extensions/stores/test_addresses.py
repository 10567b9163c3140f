"""Addresses of stores: what may stand in place of a path."""

from __future__ import annotations

from pathlib import Path

import pytest
from layerserve_server import extras
from layerserve_server.app import App
from layerserve_server.commands.settings_reader import SettingsError, read_settings
from layerserve_server.extensions.installed import Settings
from layerserve_server.settings.settings import missing_paths
from missing_packages import check_named

GOOD = [
    "s3://bucket",
    "s3://bucket/models",
    "gs://b/a/b",
    "az://container/x",
    "abfs://c@account.dfs/x",
    "hf://user/repo",
]


@pytest.mark.parametrize("address", [*GOOD, "hf://user/repo@main", "memory://models", "file:///srv/models"])
def test_an_address_is_a_path_of_the_settings(address, tmp_path):
    settings = read_settings([address, "--state", str(tmp_path)])
    assert settings.address == address
    assert settings.root.parent.parent == tmp_path / "remote"
    assert read_settings([address + "/", "--state", str(tmp_path)]) == settings


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("ftp://host/models", "begins with one of s3://"),
        ("simplecache::s3://bucket/x", "a folder or a model file that exists"),
        ("s3://", "s3://BUCKET/FOLDER"),
        ("s3://bucket/../x", "without '..'"),
        ("s3://bucket//x", "empty parts"),
        ("s3://bucket/a\nb", "s3://BUCKET/FOLDER"),
    ],
)
def test_other_addresses_are_refused(address, expected):
    try:
        problem = "\n".join(missing_paths(read_settings([address])))
    except SettingsError as error:
        problem = str(error)
    assert expected in problem


def test_a_path_stays_a_path(tmp_path):
    settings = read_settings([str(tmp_path)])
    assert (settings.path, settings.address, settings.root) == (tmp_path, "", tmp_path)
    assert settings.state_folder == tmp_path / ".layerserve"


def test_without_a_state_folder_each_address_has_its_own(monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    first, second = Settings(path="s3://bucket/a-b"), Settings(path="s3://bucket/a/b")
    assert first.state_folder.parent == Path("/home/me/.local/state/layerserve")
    assert first.state_folder.name.startswith("s3-bucket-a-b-")
    assert first.state_folder != second.state_folder
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert first.state_folder.parent == Path("/state/layerserve")


def test_the_packages_that_are_missing_are_named(monkeypatch, tmp_path):
    line = r"PATH \(.*\): requires fsspec and s3fs: pip install fsspec s3fs"
    check_named(monkeypatch, ["s3://bucket/models"], ["fsspec", "s3fs"], line)
    check_named(monkeypatch, ["gs://b"], ["gcsfs"], r"PATH \(.*\): requires gcsfs: pip install gcsfs")
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="requires fsspec and s3fs"):
        App(Settings(path="s3://bucket/models", state=tmp_path))
