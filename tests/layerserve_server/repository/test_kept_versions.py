"""A version that was kept answers until its file is read, and not a moment longer than the file can be."""

from __future__ import annotations

import json
from concurrent.futures import Future
from threading import Event

import pytest
from layergraph.errors import ModelFileError
from layerserve_server.disk import sha256
from layerserve_server.errors import UnavailableError, VersionFailedError
from layerserve_server.repository.layout import find_file
from layerserve_server.repository.version_reader import VersionReader
from layerserve_server.repository.version_states import State


@pytest.fixture
def kept(make, put, load_fake):
    """Makes a repository whose versions are all kept, and the paths of files that were read, or fail to be."""

    def make_kept(*, wrong=(), **options):
        read = []

        def load(path):
            read.append(path)
            if path in wrong or json.loads(path.read_text()).get("offset") == 13:
                raise ModelFileError(path, "can't be read")
            return load_fake(path)

        def open_kept(found, digest, settings):
            return load_fake(found.path)

        return make(load=load, open_kept=open_kept, **options), read

    return make_kept


def lease_whole(repository, *choice):
    with repository.leases.lease(*choice) as version:
        assert not version.kept
        return version.version


def test_it_answers_without_its_file(kept, put):
    put()
    repository, read = kept()
    with repository.leases.lease_loaded("double", kept=True) as version:
        assert version.kept
    assert not read
    assert repository.leases.lease_loaded("double") is None
    (described,) = repository.catalogue.describe("double")
    assert (described.state, described.answers, described.inputs[0].name) == (State.READY, True, "x")


def test_what_needs_all_of_it_has_its_file_read_once(kept, put):
    path = put()
    repository, read = kept()
    assert lease_whole(repository, "double") == lease_whole(repository, "double") == 1
    assert read == [path]
    ready = repository.catalogue.describe("double")[0].ready_time
    repository.scan()
    assert read == [path]
    assert repository.catalogue.describe("double")[0].ready_time == ready


@pytest.mark.parametrize("late", [False, True])
def test_a_call_that_came_before_it_was_opened_does_not_wait_for_its_file(kept, put, late):
    put()
    repository, read = kept()
    entry = repository.catalogue.entry("double", None, None)
    opened, entry.loaded = entry.loaded, None
    begun, load = Event(), repository.loader.load

    def begin(*arguments, **options):
        begun.set()
        load(*arguments, **options)

    repository.loader.load = begin
    done: list[Future] = [Future(), Future()]
    with entry.loading:
        if late:
            # A scan has opened it before the thread of loads begins.
            with repository.catalogue.lock:
                repository.leases.when_loaded("double", None, None, done[0].set_result, lambda: False, kept=True)
                entry.loaded = opened
            assert begun.wait(10)
        else:
            repository.leases.when_loaded("double", None, None, done[0].set_result, lambda: False, kept=True)
            assert begun.wait(10)
            entry.loaded = opened
    assert done[0].result(10) is None
    assert entry.loaded.kept
    assert not read
    repository.leases.when_loaded("double", None, None, done[1].set_result, lambda: False)
    assert done[1].result(10) is None
    assert (entry.loaded.kept, len(read)) == (False, 1)


def test_it_ends_if_its_file_can_not_be_read(kept, put):
    path = put()
    repository, _ = kept(wrong=[path])
    held = repository.leases.lease_loaded("double", kept=True)
    with pytest.raises(VersionFailedError):
        repository.leases.lease("double", 1)
    repository.scan()
    (described,) = repository.catalogue.describe("double")
    assert (described.state, described.answers) == (State.FAILED, False)
    assert "can't be read" in described.reason
    held.end()
    assert repository.catalogue.describe("double")[0].state is State.FAILED
    for lease in (repository.leases.lease, repository.leases.lease_loaded):
        with pytest.raises(VersionFailedError):
            lease("double", kept=True)


def test_a_call_for_all_of_it_gets_the_reason(kept, put):
    path = put()
    repository, _ = kept(wrong=[path])
    with pytest.raises(VersionFailedError, match="can't be read"):
        repository.leases.lease("double", 1)


def test_an_older_version_takes_the_place_of_one_that_can_not_be_read(kept, put):
    put(version=1)
    repository, _ = kept(wrong=[put(version=2)])
    with pytest.raises(VersionFailedError):
        repository.leases.lease("double", 2)
    repository.scan()
    with repository.leases.lease_loaded("double", kept=True) as version:
        assert version.version == 1


def test_it_stays_if_another_file_in_its_place_can_not_be_read(kept, put):
    put()
    repository, read = kept(settle_seconds=0.0)
    path = put(offset=13)
    repository.scan()
    assert read == [path]
    with repository.leases.lease_loaded("double", kept=True) as version:
        assert version.model.offset == 0
    assert "the previous one stays in use" in repository.catalogue.describe("double")[0].reason
    # The file that it was kept of is gone. Calls don't have the other one read again and again.
    with pytest.raises(UnavailableError):
        repository.leases.lease("double", 1)
    assert read == [path]
    put(offset=1)
    repository.scan()
    assert lease_whole(repository, "double") == 1


def test_calls_wait_for_a_canary_that_was_kept(kept, put):
    put(version=1)
    put(version=2)
    repository, _ = kept()
    named, canary = ("double", None, None), ("double", 1, None)
    lease_whole(repository, *named)
    repository.leases.lease(*canary, kept=True).end()
    with repository.leases.lease_chosen(canary, named, kept=True) as version:
        assert (version.version, version.kept) == (1, True)
    # The default is there, but isn't what the caller is to get.
    assert repository.leases.lease_chosen(canary, named) is None
    done: Future = Future()
    repository.leases.when_chosen_loaded(canary, named, done.set_result, lambda: False)
    assert done.result(10) is None
    with repository.leases.lease_chosen(canary, named) as version:
        assert (version.version, version.kept) == (1, False)


def test_a_version_of_several_files_has_a_digest_only_while_all_are_the_same(tmp_path):
    for name in ("model.weights.json", "model_00000.weights.h5"):
        (tmp_path / name).write_text("one")
    found = find_file("m", 1, tmp_path / "model.weights.json", parts=["model_00000.weights.h5"])
    digest_of = VersionReader(None, None, sha256)._digest_of
    assert digest_of(found)
    (tmp_path / "model_00000.weights.h5").write_text("another")
    assert digest_of(found) == ""
    (tmp_path / "model_00000.weights.h5").unlink()
    assert digest_of(found) == ""


def test_nothing_is_read_by_itself(kept, put):
    put()
    repository, read = kept()
    repository.scan()
    repository.rollout.retry()
    assert not read
