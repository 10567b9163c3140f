"""The folder of copies: what the server removes from it is its own."""

from __future__ import annotations

import pytest
from layerserve_server.remote.cache import Cache


@pytest.fixture
def elsewhere(tmp_path):
    """A folder that isn't the server's."""
    (tmp_path / "elsewhere" / "1").mkdir(parents=True)
    (tmp_path / "elsewhere" / "1" / "model.keras").write_text("theirs")
    (tmp_path / "elsewhere" / "2").symlink_to(tmp_path)
    return tmp_path / "elsewhere"


def contents(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.iterdir()), (
        folder / "1" / "model.keras"
    ).read_text()


@pytest.mark.parametrize("name", ["models", "kept", "wanted", "unfinished"])
def test_a_link_in_place_of_a_folder_is_refused(tmp_path, elsewhere, name):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / name).symlink_to(elsewhere)
    with pytest.raises(OSError, match=f"{name}: got a symbolic link, expected a folder"):
        Cache(tmp_path / "cache").lock()
    assert contents(elsewhere) == (["1", "2"], "theirs")


def test_a_folder_of_models_that_are_no_copies_is_refused(tmp_path, elsewhere):
    (tmp_path / "data").mkdir()
    elsewhere.rename(tmp_path / "data" / "models")
    (tmp_path / "cache").symlink_to(tmp_path / "data")
    with pytest.raises(
        OSError, match="models: got models that aren't copies of a store's, expected a folder of its own"
    ):
        Cache(tmp_path / "cache").lock()
    assert contents(tmp_path / "data" / "models") == (["1", "2"], "theirs")


def test_a_link_in_place_of_a_model_is_removed_and_what_it_leads_to_stays(tmp_path, elsewhere):
    cache = Cache(tmp_path / "cache")
    assert cache.lock()
    (cache.models / "m").symlink_to(elsewhere)
    cache.clean()
    cache.unlock()
    assert not (cache.models / "m").is_symlink()
    assert contents(elsewhere) == (["1", "2"], "theirs")
