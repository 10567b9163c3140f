"""What is kept of a store survives a machine that loses power: bytes and names are on its disk."""

from __future__ import annotations

from layerserve_server.extensions.object_stores.store import FsspecStore
from layerserve_server.extensions.stores.cache import Cache
from synced import Disk


def test_what_comes_from_a_store(tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    (tmp_path / "models" / "m" / "1" / "model.keras").write_bytes(bytes(10_240))
    store = FsspecStore(f"file://{tmp_path}/models")
    store.fetch(list(store.objects("m/1")), ["model.keras"], tmp_path / "out")
    store.close()
    assert disk.flushed_bytes(tmp_path / "out" / "model.keras") == 10_240


def test_a_copy_of_a_version_of_a_store(tmp_path, monkeypatch):
    cache = Cache(tmp_path / "cache")
    assert cache.lock()
    unfinished = cache.unfinished()
    (cache.models / "m").mkdir()
    (unfinished / "more").mkdir()
    for name in ("model.keras", "more/a"):
        (unfinished / name).write_text(name)
    disk = Disk(monkeypatch)
    cache.put(("m", 1), unfinished, "identity")
    assert disk.lost(cache.place(("m", 1))) == []
    # A copy without a mark is fetched again, a mark is never that of another copy.
    assert disk.taken[0] == cache.place(("m", 1))
    cache.unlock()
