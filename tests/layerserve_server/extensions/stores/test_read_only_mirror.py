"""ReadOnlyMirror: a process that doesn't fetch sees the same versions, and asks the one that does."""

from __future__ import annotations

import pytest
from layerserve_server.extensions.stores.cache import Cache
from layerserve_server.extensions.stores.read_only_mirror import ReadOnlyMirror


@pytest.fixture
def follow(make_mirror, tmp_path):
    """A mirror that looks for requests, and a follower of its folder."""

    def make():
        mirror = make_mirror()
        mirror.start()
        return mirror, ReadOnlyMirror(Cache(tmp_path / "cache"))

    return make


def absent(origin):
    missing = [one for one in origin.versions() if not one.path.exists()]
    return {(one.name, one.version): (one.fingerprint, one.problem) for one in missing}


def test_it_has_the_same_versions(store, follow):
    store.put("m/1/model.keras", "one")
    store.put("m/2/model.keras", "two")
    mirror, follower = follow()
    assert absent(follower) == absent(mirror) != {}
    store.put("m/3/model.keras", "three")
    mirror.refresh()
    mirror.refresh()
    mirror.fetch("m", 2)
    assert absent(follower) == absent(mirror)
    assert set(absent(follower)) == {("m", 1), ("m", 3)}


def test_what_it_waits_for_is_fetched(store, follow):
    store.put("m/1/model.keras", "one")
    _, follower = follow()
    follower.fetch("m", 1)
    assert absent(follower) == {}
    assert store.fetched == ["m/1/model.keras"]
    follower.fetch("m", 1)
    assert store.fetched == ["m/1/model.keras"]
