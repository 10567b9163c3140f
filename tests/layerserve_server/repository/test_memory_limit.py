"""Versions in limited memory: loaded when requests come, unloaded for others, and never more than there is room for."""

import gc
import shutil
import threading
import time
import weakref
from types import SimpleNamespace

import pytest
from layerserve_server.errors import BusyError, NotLoadedError, VersionFailedError
from layerserve_server.repository import lazy_loading, leases, memory_limit, publishing
from layerserve_server.repository.usage import Usage
from layerserve_server.repository.version import GRAPH_BYTES
from layerserve_server.repository.version_states import State

#: Room for two fake models.
TWO = 5 * GRAPH_BYTES // 2


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """What was loaded may be unloaded at once."""
    monkeypatch.setattr(memory_limit, "SETTLED_SECONDS", -1.0)
    monkeypatch.setattr(memory_limit, "ROOM_SECONDS", 0.1)


@pytest.fixture
def three(put):
    for number, name in enumerate(("a", "b", "c")):
        put(name, offset=number)


def offset(repository, *choice):
    with repository.leases.lease(*choice) as version:
        return version.model.offset


def loaded(repository):
    return [one.name for one in repository.catalogue.describe() if one.state is State.READY]


def settings(tmp_path, name, text):
    (tmp_path / "models" / name / "layerserve.toml").write_text(text)


def test_nothing_is_loaded_before_a_request_comes(make, three):
    repository = make(max_bytes=TWO)
    assert [(one.state, one.default, one.answers) for one in repository.catalogue.describe()] == [
        (State.AVAILABLE, True, True)
    ] * 3
    assert repository.leases.lease_loaded("b") is None
    assert offset(repository, "b") == 1
    assert loaded(repository) == ["b"]
    assert repository.memory.loaded_bytes() == repository.catalogue.describe("b")[0].memory_bytes > GRAPH_BYTES


def test_the_version_used_least_recently_makes_room(make, three):
    repository = make(max_bytes=TWO)
    for name in "aba":
        offset(repository, name)
    assert offset(repository, "c") == 2
    assert loaded(repository) == ["a", "c"]
    assert repository.memory.loaded_bytes() <= TWO
    gone = repository.catalogue.describe("b")[0]
    assert (gone.state, gone.default, gone.answers, gone.memory_bytes) == (State.AVAILABLE, True, True, 0)
    # What it has is known from when it was loaded.
    assert [spec.name for spec in gone.inputs] == ["x"]
    assert gone.used_time > time.time() - 60
    assert offset(repository, "b") == 1


def test_as_many_versions_make_room_as_are_needed(make, three, put):
    # A version that was never loaded is expected to take its file's size.
    put("d", text='{"offset": 3}' + " " * GRAPH_BYTES)
    repository = make(max_bytes=TWO)
    for name in "ab":
        offset(repository, name)
    assert offset(repository, "d") == 3
    assert loaded(repository) == ["d"]
    # Now it is known to take less, so that one has to go.
    for name in "bad":
        offset(repository, name)
    assert loaded(repository) == ["a", "d"]


def test_a_version_in_use_is_never_unloaded(make, three):
    repository = make(max_bytes=TWO)
    with repository.leases.lease("a") as first, repository.leases.lease("b"):
        with pytest.raises(BusyError, match="which are in use") as refused:
            repository.leases.lease("c")
        assert refused.value.retry_after > 0
        assert loaded(repository) == ["a", "b"]
        assert not first.queue._closed
        assert repository.catalogue.describe("c")[0].state is State.AVAILABLE
    assert offset(repository, "c") == 2


def test_a_version_in_place_of_a_deleted_one_waits_for_a_request_if_both_have_no_room(make, put, tmp_path):
    put("a", offset=1)
    repository = make(max_bytes=3 * GRAPH_BYTES // 2, settle_seconds=0)
    assert offset(repository, "a") == 1
    shutil.rmtree(tmp_path / "models" / "a" / "1")
    put("a", version=2, offset=2)
    repository.scan()
    # The deleted one had to answer until the scan had found another.
    assert loaded(repository) == []
    assert offset(repository, "a") == 2


def test_nothing_keeps_a_version_in_memory_that_made_room(make, three):
    repository = make(max_bytes=TWO)
    for name in "ab":
        offset(repository, name)
    with repository.leases.lease_loaded("a") as version:  # which remembers the choice
        model = weakref.ref(version.model)
    with repository.leases.lease("b") as version:
        version.model.engines = [type("Choice", (), {"engine": "onnxruntime"})]
        repository.memory.shrink()
    assert loaded(repository) == ["b"]
    gc.collect()
    assert model() is None


def test_a_load_waits_until_a_version_in_use_is_free(make, three, monkeypatch):
    monkeypatch.setattr(memory_limit, "ROOM_SECONDS", 30.0)
    repository = make(max_bytes=TWO)
    held = [repository.leases.lease("a"), repository.leases.lease("b")]
    threading.Timer(0.05, held[0].end).start()
    assert offset(repository, "c") == 2
    assert loaded(repository) == ["b", "c"]


def test_what_was_loaded_a_moment_ago_stays(make, three, monkeypatch):
    monkeypatch.setattr(memory_limit, "SETTLED_SECONDS", 1000.0)
    repository = make(max_bytes=TWO)
    for name in "ab":
        offset(repository, name)
    with pytest.raises(BusyError):
        repository.leases.lease("c")
    assert loaded(repository) == ["a", "b"]


def test_a_model_larger_than_all_memory_is_refused_once(make, put, load_fake):
    put("a", offset=1)
    read = []

    def load(path):
        read.append(path)
        return load_fake(path)

    repository = make(load=load, max_bytes=GRAPH_BYTES // 2)
    for _ in range(2):
        with pytest.raises(VersionFailedError, match=rf"takes {GRAPH_BYTES + 12} bytes, more than all models may take"):
            repository.leases.lease("a")
    assert len(read) == 1
    assert repository.memory.loaded_bytes() == 0


def test_a_file_of_up_to_four_times_the_limit_is_read(make, put):
    limit, text = GRAPH_BYTES + 100, '{"offset": 1}'
    for name, size in (("fits", 4 * limit), ("larger", 4 * limit + 1)):
        put(name, text=text.ljust(size))
    repository = make(max_bytes=limit)
    assert offset(repository, "fits") == 1
    with pytest.raises(VersionFailedError, match=f"its file has {4 * limit + 1} bytes"):
        repository.leases.lease("larger")


def test_a_version_that_fails_is_not_loaded_for_each_request_and_the_one_before_it_answers(make, put, load_fake):
    read = []

    def load(path):
        read.append(path.parent.name)
        return load_fake(path)

    put("a", version=1, offset=7)
    put("a", version=2, text="{")
    repository = make(load=load, max_bytes=TWO)
    assert repository.catalogue.describe_one("a").version == 2
    assert offset(repository, "a") == 7
    assert offset(repository, "a") == 7
    with pytest.raises(VersionFailedError):
        repository.leases.lease("a", 2)
    assert read == ["2", "1"]
    put("a", version=2, offset=8)
    repository.scan()
    repository.scan()
    assert offset(repository, "a") == 8


def test_a_new_version_is_loaded_beside_the_one_in_memory_and_only_then_answers(make, put):
    put("a", version=1, offset=1)
    repository = make(max_bytes=TWO, settle_seconds=0)
    offset(repository, "a")
    put("a", version=2, text="{")
    repository.scan()
    assert offset(repository, "a") == 1
    put("a", version=3, offset=3)
    repository.scan()
    with repository.leases.lease_loaded("a") as version:
        assert version.version == 3


def test_a_new_version_of_a_model_that_is_not_in_memory_waits_for_a_request(make, put):
    put("a", version=1, offset=1)
    repository = make(max_bytes=TWO, settle_seconds=0)
    put("a", version=2, offset=2)
    repository.scan()
    assert loaded(repository) == []
    assert offset(repository, "a") == 2


def test_models_that_are_kept_loaded_are_there_at_once_and_stay(make, three, tmp_path):
    settings(tmp_path, "a", "keep_loaded = true")
    repository = make(max_bytes=TWO)
    assert loaded(repository) == ["a"]
    for name in "bcb":
        offset(repository, name)
    assert loaded(repository) == ["a", "b"]


def test_labels_and_canaries_are_loaded_by_requests_too(make, put, tmp_path):
    for version in (1, 2):
        put("a", version=version, offset=version)
    publishing.write_label(tmp_path / "models" / "a", "canary", 1)
    settings(tmp_path, "a", "canary = '50 %'")
    repository = make(max_bytes=TWO)
    assert repository.catalogue.canaries["a"].version == 1
    assert loaded(repository) == []
    assert offset(repository, "a", None, "canary") == 1
    assert {one.version: one.answers for one in repository.catalogue.describe("a")} == {1: True, 2: True}


def test_an_unloaded_model_is_not_loaded_by_requests(make, put, tmp_path):
    put("a", offset=1)
    repository = make(max_bytes=TWO)
    repository.publisher.writer.write_control("a", loaded=False)
    repository.scan("a")
    assert [one.answers for one in repository.catalogue.describe()] == [False]
    with pytest.raises(NotLoadedError):
        repository.leases.lease("a")


def test_memory_is_filled_in_the_order_of_use_and_nothing_is_unloaded_for_that(make, three, put):
    put("d", offset=3)
    now = time.time()
    repository = make(max_bytes=4 * GRAPH_BYTES, used={"b": now - 1, "d": now - 2, "a": now - 3})
    repository.leases.fill(lambda: False)
    # Up to 9 tenths.
    assert loaded(repository) == ["a", "b", "d"]
    offset(repository, "c")
    # "a" was used last of all before the restart, though not since.
    assert loaded(repository) == ["b", "c", "d"]
    repository.leases.fill(lambda: False)
    assert loaded(repository) == ["b", "c", "d"]
    assert repository.memory.uses().keys() == {"a", "b", "c", "d"}


def test_filling_pauses_as_long_as_a_load_took_but_not_for_long(make, three, monkeypatch):
    repository = make(max_bytes=4 * GRAPH_BYTES)
    clock, seconds, pauses = [100.0], iter([0.25, 3.0, 3.0]), []
    load = repository.leases._load_for_calls

    def load_slowly(entry, **options):
        load(entry, **options)
        clock[0] += next(seconds)

    monkeypatch.setattr(repository.leases, "_load_for_calls", load_slowly)
    monkeypatch.setattr(
        leases, "time", SimpleNamespace(time=time.time, monotonic=lambda: clock[0], sleep=pauses.append)
    )
    repository.leases.fill(lambda: False)
    assert pauses == [0.25, 0.5, 0.5]


def test_more_is_unloaded_when_engines_take_memory(make, three):
    repository = make(max_bytes=TWO)
    for name in "ab":
        offset(repository, name)
    with repository.leases.lease("b") as version:
        version.model.engines = [type("Choice", (), {"engine": "onnxruntime"})]
        repository.memory.shrink()
        assert loaded(repository) == ["b"]
        assert version.memory_bytes > TWO


def test_only_versions_that_are_used_often_are_tuned(make, three, monkeypatch):
    monkeypatch.setattr(memory_limit, "OFTEN", 3)
    repository = make(max_bytes=TWO)
    for name in "aabbb":
        offset(repository, name)
    assert [one.name for one in repository.memory.worth_tuning()] == ["b"]
    assert repository.memory.worth_tuning() == []


class Reading:
    """A loader that waits, and counts."""

    def __init__(self, load_fake):
        self.read, self.begun, self.gate, self._load = [], threading.Event(), threading.Event(), load_fake

    def __call__(self, path):
        self.read.append(path.parent.parent.name)
        self.begun.set()
        assert self.gate.wait(30)
        return self._load(path)


def test_one_load_answers_all_calls_that_wait_without_threads(make, three, load_fake, monkeypatch, wait_until):
    monkeypatch.setattr(lazy_loading, "MAX_WAITING_FOR_ONE", 20)
    load = Reading(load_fake)
    repository = make(load=load, max_bytes=TWO)
    proceeded, before = [], set(threading.enumerate())
    for _ in range(20):
        repository.leases.when_loaded("a", None, None, proceeded.append, lambda: False)
    assert load.begun.wait(30)
    with pytest.raises(BusyError, match="20 calls are waiting for it"):
        repository.leases.when_loaded("a", None, None, proceeded.append, lambda: False)
    assert len(set(threading.enumerate()) - before) == 1
    load.gate.set()
    wait_until(lambda: proceeded == [None] * 20)
    assert offset(repository, "a") == 0
    assert load.read == ["a"]


def test_a_load_is_not_begun_if_no_call_waits_any_more(make, three, load_fake, monkeypatch):
    monkeypatch.setattr(lazy_loading, "MAX_LOADS", 1)
    load = Reading(load_fake)
    repository = make(load=load, max_bytes=TWO)
    proceeded, gone = [], []
    repository.leases.when_loaded("a", None, None, proceeded.append, lambda: False)
    assert load.begun.wait(30)
    repository.leases.when_loaded("b", None, None, gone.append, lambda: True)
    load.gate.set()
    assert offset(repository, "c") == 2
    assert load.read == ["a", "c"]
    assert (proceeded, gone) == ([None], [None])


def test_a_model_that_is_unloaded_while_a_call_waits_is_not_loaded(make, three, load_fake, monkeypatch, wait_until):
    monkeypatch.setattr(lazy_loading, "MAX_LOADS", 1)
    load = Reading(load_fake)
    repository = make(load=load, max_bytes=TWO)
    proceeded = []
    for name in "ab":
        repository.leases.when_loaded(name, None, None, proceeded.append, lambda: False)
    assert load.begun.wait(30)
    repository.publisher.writer.write_control("b", loaded=False)
    repository.scan("b")
    load.gate.set()
    wait_until(lambda: len(proceeded) == 2)
    assert load.read == ["a"]
    with pytest.raises(NotLoadedError):
        repository.leases.lease("b")


def test_two_versions_are_loaded_at_a_time_for_a_limited_number_of_calls(make, put, load_fake):
    for name in "abcde":
        put(name)
    load = Reading(load_fake)
    repository = make(load=load, max_bytes=TWO)

    def want(name):
        repository.leases.when_loaded(name, None, None, lambda _: None, lambda: False)

    for name in "abcd":
        for _ in range(256):
            want(name)
        with pytest.raises(BusyError, match="256 calls are waiting for it"):
            want(name)
    assert len(repository.leases._lazy_loading._pool._threads) == 2
    with pytest.raises(BusyError, match="1024 calls are waiting for models"):
        want("e")
    load.gate.set()


def test_calls_that_wait_in_threads_have_a_limit(make, three, load_fake, monkeypatch, wait_until):
    monkeypatch.setattr(leases, "MAX_WAITING_IN_THREADS", 1)
    load = Reading(load_fake)
    repository = make(load=load, max_bytes=TWO)
    found = []
    thread = threading.Thread(target=lambda: found.append(offset(repository, "a")))
    thread.start()
    assert load.begun.wait(30)
    with pytest.raises(BusyError):
        repository.leases.lease("b")
    load.gate.set()
    thread.join()
    assert found == [0]


def test_when_models_were_used_is_written_down(tmp_path):
    usage = Usage(tmp_path / "state" / "usage.json")
    assert usage.read() == {}
    usage.write({"a": 5.0, "b": 0.5}, 0)
    assert usage.read() == {"a": 5.0, "b": 0.5}
    # Another process of the server has used another model later.
    Usage(tmp_path / "state" / "usage.json").write({"a": 4.0, "b": 6.0}, 0)
    assert usage.read() == {"a": 5.0, "b": 6.0}
    usage.write({"a": 9.0}, 1000)
    assert usage.read() == {"a": 5.0, "b": 6.0}
    usage.write({"a": 9.0}, 0)
    assert usage.read() == {"a": 9.0}
    assert [path.suffix for path in (tmp_path / "state").iterdir() if path.suffix == ".part"] == []


def test_uses_are_not_written_again_without_a_change(tmp_path):
    usage = Usage(tmp_path / "usage.json")
    usage.write({"a": 5.0}, 0)
    (tmp_path / "usage.json").unlink()
    usage.write({"a": 5.0}, 0)
    assert not (tmp_path / "usage.json").exists()
    usage.write({"a": 6.0}, 0)
    assert usage.read() == {"a": 6.0}


def test_uses_that_can_not_be_written_are_tried_again(tmp_path, caplog):
    (tmp_path / "state").write_text("a file where the folder would be")
    usage = Usage(tmp_path / "state" / "usage.json")
    usage.write({"a": 5.0}, 0)
    assert "can't write down which models were used: usage.json: " in caplog.text
    (tmp_path / "state").unlink()
    usage.write({"a": 5.0}, 0)
    assert usage.read() == {"a": 5.0}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": "x"}', '{"a": 1e999}', '{"a": null}', "[" * 100_000])
def test_a_damaged_file_of_uses_is_none(tmp_path, text):
    (tmp_path / "usage.json").write_text(text)
    assert Usage(tmp_path / "usage.json").read() == {}
