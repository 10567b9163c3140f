"""Repository: which version answers, and that nothing on disk takes it away from its callers."""

import os
import shutil
import threading
import time
from types import SimpleNamespace

import pytest
from layerserve_server.access.reserved import Restriction
from layerserve_server.errors import (
    BusyError,
    NotTrainableError,
    UnavailableError,
    UnknownLabelError,
    UnknownModelError,
    UnknownVersionError,
    VersionFailedError,
)
from layerserve_server.inference.batching import BatchQueue
from layerserve_server.observability.metrics import Metrics
from layerserve_server.repository import layout, publishing
from layerserve_server.repository.control import Control
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.repository.version_states import State
from left_folders import left_behind


def answering(repository, *choice):
    """Version and offset of what answers."""
    with repository.leases.lease(*choice) as version:
        return version.version, version.model.offset


def states(repository):
    return {one.version: one.state for one in repository.catalogue.describe()}


def test_the_newest_version_answers_and_older_ones_are_loaded_when_asked_for(make, put):
    put(version=1, offset=1)
    put(version=2, offset=2)
    repository = make()
    assert states(repository) == {1: State.AVAILABLE, 2: State.READY}
    assert answering(repository, "double") == (2, 2)
    assert answering(repository, "double", 1) == (1, 1)
    assert states(repository) == {1: State.READY, 2: State.READY}
    assert answering(repository, "double") == (2, 2)


def test_only_so_many_old_versions_stay_loaded(make, put):
    for version in range(1, 6):
        put(version=version, offset=version)
    repository = make(max_old_versions=2)
    for version in (1, 2, 3):
        answering(repository, "double", version)
    ready = State.READY
    available = State.AVAILABLE
    assert states(repository) == {5: ready, 4: available, 3: ready, 2: ready, 1: available}
    answering(repository, "double", 2)
    answering(repository, "double", 4)
    assert states(repository) == {5: ready, 4: ready, 3: available, 2: ready, 1: available}


def test_a_version_that_was_the_newest_meanwhile_goes_when_it_is_replaced(make, put):
    """It was loaded as a request named it, then it was the newest: nobody asks for it by its number now."""
    put(version=1)
    newest = put(version=2)
    repository = make(max_old_versions=2)
    answering(repository, "double", 1)
    newest.unlink()
    newest.parent.rmdir()
    repository.scan()
    put(version=3)
    repository.scan()
    repository.scan()
    assert states(repository) == {1: State.AVAILABLE, 3: State.READY}


def test_an_old_version_answers_whoever_asks_for_it_also_where_none_is_kept(make, put):
    for version in (1, 2, 3):
        put(version=version, offset=version)
    repository = make(max_old_versions=0)
    assert answering(repository, "double", 1) == (1, 1)
    assert answering(repository, "double", 2) == (2, 2)
    assert states(repository) == {1: State.AVAILABLE, 2: State.READY, 3: State.READY}
    repository.scan()
    assert states(repository) == {1: State.AVAILABLE, 2: State.AVAILABLE, 3: State.READY}


def test_a_version_is_loading_while_it_is_read(make, put, load_fake):
    put(version=1, offset=1)
    seen = []

    def load(path):
        version = int(path.parent.name)
        with pytest.raises(UnavailableError, match=f"model 'double' version {version} is being loaded; try again"):
            repository.leases.lease("double", version)
        seen.append((version, states(repository)[version]))
        return load_fake(path)

    repository = make()
    repository.loader._reader.load = lambda path, settings: load(path)
    put(version=2, offset=2)
    repository.scan()
    repository.scan()
    assert seen == [(2, State.LOADING)]
    assert states(repository) == {1: State.AVAILABLE, 2: State.READY}


def test_content_is_read_once_until_it_changes(make, put, load_fake):
    """What failed isn't tried again and again, and what is loaded isn't loaded anew."""
    put("good")
    path = put("bad", text="{")
    read = []
    repository = make(load=lambda path: read.append(path.parent.parent.name) or load_fake(path))
    for _ in range(3):
        repository.scan()
    assert sorted(read) == ["bad", "good"]
    path.write_text("[")
    repository.scan()
    repository.scan()
    assert sorted(read) == ["bad", "bad", "good"]


def test_what_is_ready_is_told_of_with_its_size_and_its_time(make, put):
    put(version=1)
    ready = []
    repository = make(ready=ready.append)
    (loaded,) = ready
    assert (loaded.name, loaded.version, loaded.parameter_count, loaded.training_run) == ("double", 1, 3, "")
    (described,) = repository.catalogue.describe()
    assert (described.parameter_count, described.file_bytes, described.reason) == (3, 2, "")
    assert time.time() - 60 < described.ready_time <= time.time()
    put(version=2, text="{")
    repository.scan()
    repository.scan()
    failed = repository.catalogue.describe()[0]
    assert (failed.ready_time, failed.parameter_count, failed.inputs, failed.default) == (None, 0, (), False)


def test_a_model_is_described_by_its_version_or_label_or_the_default(make, put, tmp_path):
    for version in (1, 2):
        put(version=version)
    put("other")
    publishing.write_label(tmp_path / "models" / "double", "old", 1)
    repository = make()
    assert [(one.name, one.version) for one in repository.catalogue.describe()] == [
        ("double", 2),
        ("double", 1),
        ("other", 1),
    ]
    assert [one.version for one in repository.catalogue.describe("double")] == [2, 1]
    assert repository.catalogue.describe("nothing") == []
    assert repository.catalogue.describe_one("double").version == 2
    assert repository.catalogue.describe_one("double", 1).version == 1
    assert repository.catalogue.describe_one("double", None, "old").labels == ("old",)


def test_a_new_version_takes_over_while_the_old_one_finishes(make, put):
    put(version=1, offset=1)
    repository = make()
    lease = repository.leases.lease("double")
    put(version=2, offset=2)
    repository.scan()
    repository.scan()
    assert answering(repository, "double") == (2, 2)
    assert states(repository) == {1: State.UNLOADING, 2: State.READY}
    assert lease.version.model.offset == 1
    lease.end()
    assert states(repository) == {1: State.AVAILABLE, 2: State.READY}


def test_a_new_version_answers_as_soon_as_it_is_loaded(make, put, load_fake):
    """Before other models are, which may take long."""
    put(version=1, offset=1)
    answers = []

    def note(_):
        with repository.leases.lease_loaded("double") as version:
            answers.append(version.version)

    def load(path):
        if path.parent.name == "2":
            note(path)
        return load_fake(path)

    repository = make(load=load)
    repository.loader._ready = note
    put(version=2, offset=2)
    repository.scan()
    repository.scan()
    assert answers == [1, 2]


def test_a_version_that_fails_leaves_the_old_one_and_says_why(make, put):
    put(version=1, offset=1)
    repository = make()
    put(version=2, text="{")
    repository.scan()
    repository.scan()
    assert answering(repository, "double") == (1, 1)
    assert states(repository)[2] is State.FAILED
    assert repository.catalogue.describe("double")[0].reason == "model.keras: the file is truncated"
    with pytest.raises(VersionFailedError, match=r"model 'double' version 2 failed to load: .*truncated"):
        repository.leases.lease("double", 2)


def test_at_the_start_the_newest_that_loads_is_taken(make, put):
    put(version=1, offset=1)
    put(version=2, offset=2)
    put(version=3, text="{")
    repository = make()
    assert answering(repository, "double") == (2, 2)
    assert states(repository) == {1: State.AVAILABLE, 2: State.READY, 3: State.FAILED}


def test_a_broken_model_does_not_harm_others_and_is_tried_again_when_it_changes(make, put):
    put("good")
    put("bad", text="{")
    repository = make()
    assert answering(repository, "good") == (1, 0)
    with pytest.raises(VersionFailedError):
        repository.leases.lease("bad")
    put("bad", offset=5)
    repository.scan()
    repository.scan()
    assert answering(repository, "bad") == (1, 5)


@pytest.mark.parametrize("specs", ["input_specs", "output_specs"])
def test_a_version_with_a_dtype_that_messages_lack_fails_alone(make, put, load_fake, specs):
    """Lists would fail for all models."""

    def load(path):
        model = load_fake(path)
        if "odd" in str(path):
            setattr(model, specs, [SimpleNamespace(name="z", shape=(None, 2), dtype="float8_e4m3fn")])
        return model

    put("odd")
    put("double")
    repository = make(load=load)
    found = {one.name: (one.state, one.reason) for one in repository.catalogue.describe()}
    assert found["double"] == (State.READY, "")
    assert found["odd"] == (State.FAILED, "tensor 'z' has dtype float8_e4m3fn, which requests can't have")


def test_a_defect_while_loading_is_not_told_to_callers(make, put, caplog):
    put()

    def load(path):
        raise ZeroDivisionError("/secret/path")

    repository = make(load=load)
    assert repository.catalogue.describe()[0].reason == "internal error while loading; see the server's log"
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("make_it", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/etc/passwd")])
def test_what_is_no_file_is_listed_with_its_reason(make, put, tmp_path, make_it):
    put("good")
    folder = tmp_path / "models" / "odd" / "1"
    folder.mkdir(parents=True)
    make_it(folder / "model.keras")
    repository = make()
    assert answering(repository, "good") == (1, 0)
    (odd,) = repository.catalogue.describe("odd")
    assert odd.state is State.FAILED
    assert "expected a regular file" in odd.reason


def test_a_file_that_grows_is_taken_when_it_stops(make, put, tmp_path):
    put("other")
    repository = make(settle_seconds=1000)
    path = put("slow", text="{")
    repository.scan()
    assert [one.state for one in repository.catalogue.describe("slow")] == [State.LOADING]
    with pytest.raises(UnavailableError):
        repository.leases.lease("slow")
    path.write_text('{"offset": 3')
    repository.scan()
    path.write_text('{"offset": 3}')
    repository.scan()
    assert [one.state for one in repository.catalogue.describe("slow")] == [State.LOADING]
    repository.scan()
    assert answering(repository, "slow") == (1, 3)


def test_a_file_that_lay_still_before_it_came_is_taken_at_once(make, put):
    put("other")
    repository = make(settle_seconds=60)
    path = put("moved", offset=4)
    os.utime(path, (time.time() - 100,) * 2)
    repository.scan()
    assert answering(repository, "moved") == (1, 4)


def test_a_served_file_that_is_overwritten_is_swapped_or_kept(make, put):
    path = put(offset=1)
    repository = make()
    path.write_text("{")
    repository.scan()
    repository.scan()
    assert answering(repository, "double") == (1, 1)
    assert "can't be loaded; the previous one stays in use" in repository.catalogue.describe()[0].reason
    path.write_text('{"offset": 9}')
    repository.scan()
    repository.scan()
    assert answering(repository, "double") == (1, 9)
    assert repository.catalogue.describe()[0].reason == ""


def test_a_version_that_is_removed_finishes_and_the_one_before_takes_over(make, put):
    put(version=1, offset=1)
    path = put(version=2, offset=2)
    repository = make()
    lease = repository.leases.lease("double")
    path.unlink()
    path.parent.rmdir()
    repository.scan()
    assert answering(repository, "double") == (1, 1)
    assert lease.version.model.offset == 2
    lease.end()
    with pytest.raises(UnknownVersionError, match="model 'double' has no version 2; it has 1"):
        repository.leases.lease("double", 2)


def test_that_a_model_is_gone_is_observed_once(make, put, monkeypatch):
    """So metrics needn't keep the series of each model that there ever was."""
    observed = []
    monkeypatch.setattr(Metrics, "model_gone", lambda _, model: observed.append(model))
    loaded, failed = put(), put("broken")
    failed.write_text("{")
    repository = make()
    assert not observed
    for path in (loaded, failed):
        path.unlink()
        path.parent.rmdir()
    for _ in range(2):
        repository.scan()
        repository.scan("broken")
    assert sorted(observed) == ["broken", "double"]


def test_a_misplaced_model_is_reported_once_while_it_is_there(make, put, tmp_path, caplog):
    put()
    repository = make()
    misplaced = tmp_path / "models" / "net" / "model.keras"
    misplaced.parent.mkdir()
    for _ in range(2):
        misplaced.write_text("model")
        repository.scan()
        repository.scan()
        misplaced.unlink()
        repository.scan()
    expected = "'net/model.keras' isn't served: expected net/VERSION/model.keras, such as net/1/model.keras"
    assert caplog.messages == [expected] * 2


def test_a_version_that_is_not_one_model_file_is_reported_once_while_it_stays_so(make, put, tmp_path, caplog):
    put()
    two, empty = (tmp_path / "models" / "double" / version for version in ("2", "3"))
    two.mkdir()
    (two / "a.keras").write_text("model")
    (two / "b.keras").write_text("model")
    repository = make()
    reasons = ["version 2 can't be loaded: the version's folder has 2 model files"]
    for _ in range(2):
        assert [message.partition(", expected")[0] for message in caplog.messages] == [
            f"model 'double' {reason}" for reason in reasons
        ]
        empty.mkdir()
        for _ in range(3):
            repository.scan()
        empty.rmdir()
        repository.scan()
        reasons.append("version 3 can't be loaded: the version's folder is empty")


def test_a_folder_that_is_being_filled_is_not_reported(make, put, tmp_path, caplog):
    put()
    repository = make()
    (tmp_path / "models" / "double" / "2").mkdir()
    repository.scan()
    put(version=2)
    repository.scan()
    repository.scan()
    assert caplog.messages == []
    assert answering(repository, "double")[0] == 2


def test_a_disk_that_does_not_answer_takes_nothing_away(make, put, tmp_path, caplog):
    put(offset=1)
    repository = make()
    (tmp_path / "models").rename(tmp_path / "gone")
    repository.scan()
    repository.scan()
    assert answering(repository, "double") == (1, 1)
    assert caplog.text.count("can't read the repository") == 1


def test_labels_choose(make, put, tmp_path):
    put(version=1, offset=1)
    put(version=2, offset=2)
    publishing.write_label(tmp_path / "models" / "double", "stable", 1)
    publishing.write_label(tmp_path / "models" / "double", "lost", 7)
    repository = make()
    assert answering(repository, "double", None, "stable") == (1, 1)
    assert [one.labels for one in repository.catalogue.describe()] == [(), ("stable",)]
    with pytest.raises(UnknownLabelError, match="model 'double': unknown label 'stabel'; did you mean 'stable'"):
        repository.leases.lease("double", None, "stabel")
    with pytest.raises(UnknownVersionError, match="no version 7, to which label 'lost' points"):
        repository.leases.lease("double", None, "lost")


def test_a_failed_version_is_tried_again_when_a_call_has_it_loaded(make, put, load_fake):
    problems = [OSError("input/output error")]

    def load(path):
        if problems:
            raise problems[0]
        return load_fake(path)

    put(offset=3)
    repository = make(load=load)
    for _ in range(2):
        with pytest.raises(VersionFailedError, match="version 1 failed to load"):
            repository.rollout.ensure_loaded("double", 1)
    problems.clear()
    with pytest.raises(VersionFailedError):
        repository.leases.lease("double", 1)
    repository.rollout.ensure_loaded("double", 1)
    with repository.leases.lease("double", 1) as version:
        assert version.model.offset == 3


def test_a_new_label_of_a_version_that_can_not_be_loaded_is_an_error_of_that_version_alone(make, put, tmp_path):
    put(version=1, offset=1)
    repository = make(settle_seconds=0)
    put(version=2, text="{")
    publishing.write_label(tmp_path / "models" / "double", "next", 2)
    repository.scan()
    assert repository.catalogue.describe_one("double").version == 1
    with pytest.raises(VersionFailedError, match="the file is truncated"):
        repository.leases.lease("double", None, "next")


@pytest.mark.parametrize("lease", ["lease", "lease_loaded"])
def test_a_label_that_moves_between_loaded_versions_chooses_anew(make, put, tmp_path, lease):
    put(version=1, offset=1)
    put(version=2, offset=2)
    repository = make()
    answering(repository, "double", 1)
    for version in (1, 2, 1):
        publishing.write_label(tmp_path / "models" / "double", "stable", version)
        repository.scan()
        for _ in range(2):  # the second time from what was chosen before
            with getattr(repository.leases, lease)("double", None, "stable") as chosen:
                assert chosen.version == version
    assert states(repository) == {1: State.READY, 2: State.READY}
    (tmp_path / "models" / "double" / "labels.json").unlink()
    repository.scan()
    with pytest.raises(UnknownLabelError):
        getattr(repository.leases, lease)("double", None, "stable")


def test_what_is_loaded_already_is_leased_in_no_time(make, put):
    put(version=1, offset=1)
    put(version=2, offset=2)
    repository = make()
    assert repository.leases.lease_loaded("double", 1) is None
    assert states(repository)[1] is State.AVAILABLE
    with repository.leases.lease_loaded("double") as version:
        assert version.version == 2
    with pytest.raises(UnknownVersionError):
        repository.leases.lease_loaded("double", 3)


def test_content_that_is_replaced_while_leased_finishes_and_the_new_one_answers(make, put):
    path = put(offset=1)
    repository = make()
    metrics = repository._observer.registry.get_sample_value
    loaded = ("layerserve_model_loaded", {"model": "double", "version": "1"})
    lease = repository.leases.lease_loaded("double")
    old = lease.version
    path.write_text('{"offset": 9}')
    repository.scan()
    repository.scan()
    assert (old.retired, old.queue._closed) == (True, False)
    assert old.lease() is None
    for answer in (repository.leases.lease, repository.leases.lease_loaded):
        with answer("double") as version:
            assert (version.model.offset, version is old) == (9, False)
    lease.end()
    assert old.queue._closed
    # The end of the old content isn't the version's.
    assert states(repository) == {1: State.READY}
    assert metrics(*loaded) == 1
    assert answering(repository, "double") == (1, 9)
    path.unlink()
    path.parent.rmdir()
    repository.scan()
    assert metrics(*loaded) is None


@pytest.mark.parametrize("closes", [False, True])
def test_a_version_that_is_removed_while_it_loads_is_not_kept(make, put, load_fake, tmp_path, closes):
    put(version=2, offset=2)
    path = put(version=1, offset=1)
    loading, gate, ready = threading.Event(), threading.Event(), []

    def load(path):
        model = load_fake(path)
        if path.parent.name == "1":
            loading.set()
            assert gate.wait(30)
        return model

    repository = make(load=load, ready=ready.append)
    caught, queues = [], []
    make_queue = repository.loader._reader.make_queue
    repository.loader._reader.make_queue = lambda *facts: queues.append(make_queue(*facts)) or queues[-1]

    def ask():
        try:
            repository.leases.lease("double", 1)
        except (UnknownVersionError, UnknownModelError) as error:
            caught.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    assert loading.wait(30)
    if closes:
        repository.close()
    else:
        path.unlink()
        path.parent.rmdir()
        repository.scan()
    gate.set()
    thread.join()
    assert caught == ["the server has no models" if closes else "model 'double' has no version 1; it has 2"]
    assert [queue._closed for queue in queues] == [True]
    assert [one.version for one in ready] == [2]
    loaded = ("layerserve_model_loaded", {"model": "double", "version": "1"})
    assert repository._observer.registry.get_sample_value(*loaded) is None


def loaded_version(put, released):
    execution = SimpleNamespace()
    queue = BatchQueue("m", execution, max_batch_rows=8, max_queue_rows=8, observer=Metrics().batches("m", 1))
    found = layout.find_file("m", 1, put())
    return LoadedVersion(found, SimpleNamespace(), execution, queue, 3, "", released.append)


def test_a_retired_version_gives_no_lease_and_is_released_once_with_the_last(put):
    released = []
    version = loaded_version(put, released)
    first, second = version.lease(), version.lease()
    version.retire()
    version.retire()
    assert version.lease() is None
    for _ in range(2):  # a lease that has ended twice counts once
        first.end()
        assert (released, version.queue._closed) == ([], False)
    with second as held:
        assert held is version
    assert (released, version.queue._closed) == ([version], True)


def test_a_version_that_nobody_uses_is_released_when_it_is_retired(put):
    released = []
    version = loaded_version(put, released)
    version.lease().end()
    assert released == []
    version.retire()
    version.retire()
    assert released == [version]


@pytest.mark.parametrize(
    "name", ["../../etc", "..%2f", "a/b", ".", "", " ", "\0", "x" * 10_000, "d\u043euble", "\ud800"], ids=ascii
)
def test_names_that_are_no_model_are_unknown(make, put, name):
    put()
    with pytest.raises(UnknownModelError, match="unknown model"):
        make().leases.lease(name)


def test_of_many_versions_the_ten_newest_are_named(make, put):
    for version in range(1, 13):
        put(version=version)
    with pytest.raises(UnknownVersionError, match=r"has no version 99; it has 12, 11, 10, 9, 8, 7, 6, 5, 4, 3$"):
        make().leases.lease("double", 99)


def test_an_empty_repository_says_so(make, tmp_path):
    (tmp_path / "models").mkdir()
    with pytest.raises(UnknownModelError, match="the server has no models"):
        make().leases.lease("m")


def test_callers_wait_for_an_old_version_but_not_without_bound(make, put, load_fake):
    put(version=1, offset=1)
    put(version=2, offset=2)
    gate, loading, read = threading.Event(), threading.Event(), []

    def load(path):
        read.append(path.parent.name)
        if path.parent.name == "1":
            loading.set()
            assert gate.wait(30)
        return load_fake(path)

    repository = make(load=load)
    results = []
    threads = [threading.Thread(target=lambda: results.append(answering(repository, "double", 1))) for _ in range(8)]
    threads[0].start()
    assert loading.wait(30)
    for thread in threads[1:]:
        thread.start()
    while repository.catalogue.models["double"].versions[1].waiting < 8:
        time.sleep(0.001)
    with pytest.raises(BusyError, match="8 calls are waiting for it"):
        repository.leases.lease("double", 1)
    assert answering(repository, "double") == (2, 2)
    gate.set()
    for thread in threads:
        thread.join()
    assert results == [(1, 1)] * 8
    assert read == ["2", "1"]


def test_a_published_version_is_served_when_publish_returns(make, put, tmp_path):
    put(version=1, offset=1)
    repository = make(settle_seconds=1000)
    result = tmp_path / "result.keras"
    result.write_text('{"offset": 7}')
    assert repository.publisher.publish("double", result, run="r1", base_version=1, label="best") == 2
    assert answering(repository, "double") == (2, 7)
    newest = repository.catalogue.describe()[0]
    assert (newest.training_run, newest.labels, newest.default) == ("r1", ("best",), True)
    assert repository.publisher.version_of_run("double", "r1") == 2
    assert repository.publisher.version_of_run("double", "r2") == 0


def test_a_published_file_that_does_not_load_is_told_and_not_served(make, put, tmp_path):
    put(version=1, offset=1)
    folder = tmp_path / "models" / "double"
    publishing.write_label(folder, "best", 1)
    repository = make()
    result = tmp_path / "result.keras"
    result.write_text("{")
    for _ in range(2):  # again after a restart, when the version is there already
        with pytest.raises(VersionFailedError, match="published as version 2, which can't be loaded"):
            repository.publisher.publish_once("double", result, run="r1", base_version=1, label="best")
        assert answering(repository, "double") == (1, 1)
        assert answering(repository, "double", None, "best") == (1, 1)
        repository = make()
    assert sorted(publishing.version_numbers(folder)) == [1, 2]


def test_a_label_that_moves_while_a_scan_runs_points_at_a_version_that_the_scan_knows(make, put, tmp_path, monkeypatch):
    """The scan has listed the versions, and not yet read the labels."""
    put(version=1)
    publishing.write_label(tmp_path / "models" / "double", "best", 1)
    repository = make()
    find = repository.folder.find

    def find_before(only):
        found = find(only)
        put(version=2)
        publishing.write_label(tmp_path / "models" / "double", "best", 2)
        return found

    with monkeypatch.context() as during:
        during.setattr(repository.folder, "find", find_before)
        repository.scan()
    with repository.leases.lease("double", None, "best") as chosen:
        assert chosen.version == 1
    # One finds it, and the next one sees that its file is complete.
    for _ in range(2):
        repository.scan()
    with repository.leases.lease("double", None, "best") as chosen:
        assert chosen.version == 2


def test_a_label_moves_when_the_new_version_is_loaded(make, put, tmp_path, load_fake):
    """Callers of the label have an answer all the time: from the old version, then from the new one."""
    put(version=1, offset=1)
    publishing.write_label(tmp_path / "models" / "double", "best", 1)
    answers = []

    def load(path):
        if path.parent.name == "2":
            answers.append(answering(repository, "double", None, "best"))
        return load_fake(path)

    repository = make(load=load)
    result = tmp_path / "result.keras"
    result.write_text('{"offset": 7}')
    repository.publisher.publish("double", result, run="r1", base_version=1, label="best")
    answers.append(answering(repository, "double", None, "best"))
    assert answers == [(1, 1), (2, 7)]


def test_a_run_publishes_once_whatever_it_was_killed_at(make, put, tmp_path):
    """A server that is killed after the version appeared and before the run's last event publishes it again."""
    put(version=1, offset=1)
    folder = tmp_path / "models" / "double"

    def publish(repository, run, label=""):
        result = tmp_path / "result.keras"
        result.write_text('{"offset": 7}')
        return repository.publisher.publish_once("double", result, run=run, base_version=1, label=label)

    repository = make()
    assert publish(repository, "r1") == 2
    assert publish(repository, "r1") == 2
    repository = make()
    assert publish(repository, "r1", "best") == 2
    assert sorted(publishing.version_numbers(folder)) == [1, 2]
    assert answering(repository, "double", None, "best") == (2, 7)
    assert publish(repository, "r2", "best") == 3
    assert publish(repository, "r1") == 2
    assert publishing.read_labels(folder) == {"best": 3}
    assert publishing.read_manifest(folder / "3")["base_version"] == 1


def test_a_published_file_that_was_changed_is_not_loaded(make, put, tmp_path):
    put(version=1, offset=1)
    result = tmp_path / "result.keras"
    result.write_text('{"offset": 7}')
    publishing.publish(tmp_path / "models", "double", result, {})
    (tmp_path / "models" / "double" / "2" / "model.keras").write_text('{"offset": 8}')
    repository = make()
    assert answering(repository, "double") == (1, 1)
    assert "sha256 differs" in repository.catalogue.describe()[0].reason


def test_a_single_file_is_version_1_and_training_publishes_beside_it(make, put, tmp_path):
    path = put(offset=1).rename(tmp_path / "digits.keras")
    repository = make(path)
    assert answering(repository, "digits") == (1, 1)
    result = tmp_path / "result.keras"
    result.write_text('{"offset": 7}')
    assert repository.publisher.publish("digits", result, run="r1", base_version=1) == 2
    assert (tmp_path / "published" / "digits" / "2" / "model.keras").exists()
    assert answering(repository, "digits") == (2, 7)
    assert answering(repository, "digits", 1) == (1, 1)


def test_a_repository_that_can_be_written_is_left_as_it_was(make, put, tmp_path):
    path = put().rename(tmp_path / "digits.keras")
    for _ in range(2):
        make(path).publisher.check_publishable("digits", 1)
    assert os.listdir(tmp_path / "published" / "digits") == []


def test_what_a_publisher_left_is_swept(make, put, tmp_path):
    put()
    left = left_behind(tmp_path / "models" / "double")
    make().folder.sweep()
    assert not left.exists()


def test_a_disk_that_is_full_when_a_run_publishes_is_told(make, put, tmp_path, monkeypatch):
    put()
    repository = make()
    result = tmp_path / "result.keras"
    result.write_text("{}")

    def refuse(*_args, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "publish", refuse)
        with pytest.raises(NotTrainableError, match="the repository can't be written: No space left on device"):
            repository.publisher.publish_once("double", result, run="r1", base_version=1)
    monkeypatch.setattr(publishing, "write_label", refuse)
    with pytest.raises(NotTrainableError, match="the repository can't be written: No space left on device"):
        repository.publisher.publish_once("double", result, run="r1", base_version=1, label="best")
    assert repository.publisher.version_of_run("double", "r1") == 2


def test_a_repository_that_can_not_be_written_is_told(make, put, tmp_path, monkeypatch):
    put()
    repository = make()

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(NotTrainableError, match="can't be written: Permission denied"):
        repository.publisher.check_publishable("double", 1)


def test_a_model_whose_folder_can_not_be_read_stays_in_use(make, put, tmp_path, monkeypatch, caplog):
    put()
    put("other")
    folder, scandir = str(tmp_path / "models" / "double"), os.scandir

    def refuse(path):
        if os.fspath(path) == folder:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    repository = make()
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        put("other", 2)
        for _ in range(2):
            repository.scan()
        assert (answering(repository, "double"), answering(repository, "other")[0]) == ((1, 0), 2)
        fresh = make()
        assert fresh.folder.misplaced() == {"double": "its folder can't be read: Permission denied"}
    assert [text for text in caplog.messages if "'double'" in text and "can't be read" in text] == [
        "the folder of model 'double' can't be read; its versions stay in use: Permission denied",
        "'double' isn't served: its folder can't be read: Permission denied",
    ]
    shutil.rmtree(folder)
    repository.scan()
    with pytest.raises(UnknownModelError):
        repository.leases.lease("double")


def test_before_the_first_look_nothing_is_denied(make, put):
    put()
    repository = make(scan=False)
    for ask in (
        lambda: repository.leases.lease("double"),
        lambda: repository.leases.lease_loaded("nothing"),
        lambda: repository.catalogue.describe(),
        lambda: repository.catalogue.describe_one("double"),
    ):
        with pytest.raises(UnavailableError, match="hasn't read its models yet"):
            ask()
    repository.open()
    assert answering(repository, "double") == (1, 0)
    with pytest.raises(UnknownModelError):
        repository.leases.lease("nothing")


def test_a_model_whose_newest_version_is_broken_is_being_loaded_until_the_one_before_it_is(make, put, load_fake):
    """A broken version is for good, and callers would be told to give up."""
    put(version=1, offset=1)
    put(version=2, text="{")
    asked = []

    def load(path):
        if path.parent.name == "1" and not asked:
            asked.append(path)
            with pytest.raises(UnavailableError, match="version 1 is being loaded"):
                repository.leases.lease_loaded("double")
        return load_fake(path)

    repository = make(load=load, scan=False)
    repository.open()
    assert asked
    assert answering(repository, "double") == (1, 1)


def test_a_version_that_is_unloaded_again_and_again_is_unavailable(make, put, monkeypatch):
    put()
    repository = make()
    monkeypatch.setattr(LoadedVersion, "lease", lambda version: None)
    with pytest.raises(UnavailableError, match="model 'double' version 1 is being unloaded"):
        repository.leases.lease("double")


@pytest.fixture
def both_loaded(make, put, tmp_path):
    """A repository of two versions that stay in memory, of which the newest is the default."""
    put(version=1, offset=1)
    put(version=2, offset=2)
    (tmp_path / "models" / "double" / "labels.json").write_text('{"old": 1, "new": 2}')
    repository = make()
    assert answering(repository, "double") == (2, 2)
    return repository


def test_a_choice_that_was_made_before_a_change_is_not_kept_after_it(both_loaded, put, monkeypatch):
    repository, entry = both_loaded, both_loaded.catalogue.entry
    put(version=3, offset=3)

    def meanwhile(*choice):
        found = entry(*choice)
        monkeypatch.undo()
        for _ in range(2):  # a file is complete if it stays as it is
            repository.scan()
        return found

    monkeypatch.setattr(repository.catalogue, "entry", meanwhile)
    for expected in (2, 3, 3):
        with repository.leases.lease_loaded("double") as version:
            assert version.version == expected


@pytest.mark.parametrize("limit", [0, 1 << 30], ids=["loaded", "on standby"])
def test_nothing_is_kept_of_what_a_model_that_is_gone_had_chosen(make, put, tmp_path, limit):
    for version in (1, 2):
        put(version=version)
    folder = tmp_path / "models" / "double"
    (folder / "labels.json").write_text('{"old": 1}')
    repository = make(max_bytes=limit)
    text = 'canary = "50 %"\ncanary_label = "old"\ncallers = ["a"]\n'
    (folder / "layerserve.toml").write_text(text)
    repository.scan()
    catalogue = repository.catalogue
    assert [list(one) for one in (catalogue.canaries, catalogue.restrictions)] == [["double"]] * 2
    shutil.rmtree(folder)
    repository.scan()
    assert [list(one) for one in (catalogue.canaries, catalogue.chosen)] == [[]] * 2
    # Its runs are still there, and a model of its name may come.
    assert catalogue.restrictions == {"double": Restriction(("a",))}


def test_a_default_that_a_call_has_set_answers_at_once(both_loaded):
    repository = both_loaded
    for pinned, expected in ((1, 1), (2, 2), (None, 2), (1, 1)):
        with repository.leases.lease_loaded("double"):
            pass  # so that the choice is kept
        repository.catalogue.set_control("double", Control(pinned=pinned))
        with repository.leases.lease_loaded("double") as version:
            assert version.version == expected
        assert answering(repository, "double")[0] == expected
        assert repository.catalogue.describe_one("double").version == expected
