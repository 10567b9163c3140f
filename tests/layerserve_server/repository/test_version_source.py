"""A repository whose folder holds copies: what is fetched for which request, and what a copy that goes away costs."""

from __future__ import annotations

import json
import shutil

import pytest
from layerserve_server.errors import UnavailableError, VersionFailedError
from layerserve_server.repository.layout import FoundVersion
from layerserve_server.repository.version import GRAPH_BYTES
from layerserve_server.repository.version_states import State


def answering(repository, *choice):
    """Version and offset of what answers."""
    with repository.leases.lease(*choice) as version:
        return version.version, version.model.offset


def states(repository):
    return {one.version: one.state for one in repository.catalogue.describe()}


class FakeOrigin:
    """A store with versions of "double", which are put into the folder when they are fetched."""

    def __init__(self, root, *versions):
        self.root = root
        self.offsets = {version: 10.0 * version for version in versions}
        self.problems = {}
        self.wanted, self.fetched, self.used = [], [], []
        self.error = None

    def folder(self, version):
        return self.root / "double" / str(version)

    def versions(self):
        return [
            FoundVersion(
                *("double", version, self.folder(version), (0, 0, 9, version, 0), True),
                problem=self.problems.get(version, ""),
                absent=True,
            )
            for version in self.offsets
        ]

    def want(self, name, version):
        self.wanted.append(version)

    def fetch(self, name, version):
        if self.error is not None:
            raise self.error
        self.fetched.append(version)
        self.folder(version).mkdir(parents=True, exist_ok=True)
        (self.folder(version) / "model.keras").write_text(json.dumps({"offset": self.offsets[version]}))

    def note_use(self, versions):
        self.used = sorted(versions)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "models").mkdir()
    return FakeOrigin(tmp_path / "models", 1, 2, 3)


@pytest.fixture
def repository(make, source):
    return make(source=source, settle_seconds=0)


def test_only_what_is_to_be_loaded_is_wanted_and_a_scan_waits_for_nothing(repository, source):
    assert (source.wanted, source.fetched) == ([3], [])
    assert states(repository) == {1: State.AVAILABLE, 2: State.AVAILABLE, 3: State.AVAILABLE}


def test_a_copy_that_is_here_serves_while_a_newer_version_is_coming(repository, source):
    source.fetch("double", 1)
    repository.scan()
    assert answering(repository, "double") == (1, 10)
    assert source.used == [("double", 1)]
    assert set(source.wanted) == {3}, "no other version is fetched for the time until then"
    source.fetch("double", 3)
    repository.scan()
    assert answering(repository, "double") == (3, 30)


def test_a_request_fetches_what_it_names(repository, source):
    assert answering(repository, "double", 2) == (2, 20)
    assert source.fetched == [2]
    assert answering(repository, "double", 2) == (2, 20)
    repository.scan()
    assert answering(repository, "double", 2) == (2, 20)
    assert source.fetched == [2]


def test_a_loaded_version_whose_copy_goes_away_serves_on(repository, source):
    source.fetch("double", 3)
    repository.scan()
    with repository.leases.lease("double", 3) as loaded:
        shutil.rmtree(source.folder(3))  # as while it is replaced by another content
        repository.scan()
        assert not loaded.retired
    assert set(source.wanted) == {3}, "no older version takes its place"
    assert answering(repository, "double") == (3, 30)
    source.offsets[3] = 33.0
    source.fetch("double", 3)
    repository.scan()
    assert answering(repository, "double") == (3, 33)


def test_a_version_that_was_unloaded_and_whose_copy_was_removed_is_fetched_again(make, source):
    source.fetch("double", 3)
    repository = make(source=source, settle_seconds=0, max_old_versions=0)
    assert answering(repository, "double", 1) == (1, 10)
    repository.scan()
    assert states(repository)[1] is State.AVAILABLE
    shutil.rmtree(source.folder(1))
    repository.scan()
    assert answering(repository, "double", 1) == (1, 10)
    assert source.fetched == [3, 1, 1]


def test_a_version_with_a_problem_has_failed_and_an_older_one_is_wanted(repository, source):
    source.problems[3] = "its sha256 differs"
    repository.scan()
    assert states(repository)[3] is State.FAILED
    assert source.wanted == [3, 2]
    with pytest.raises(VersionFailedError, match="version 3 failed to load: its sha256 differs"):
        repository.leases.lease("double", 3)
    del source.problems[3]
    repository.scan()
    assert (states(repository)[3], source.wanted[-1]) == (State.AVAILABLE, 3)


def test_a_store_that_is_away_is_no_failure_of_the_version(repository, source):
    source.error = UnavailableError("connection refused")
    for _ in range(2):
        with pytest.raises(UnavailableError, match="connection refused"):
            repository.leases.lease("double", 2)
    assert states(repository)[2] is State.AVAILABLE
    source.error = None
    assert answering(repository, "double", 2) == (2, 20)


def test_a_version_that_is_gone_from_folder_and_store_is_unloaded(repository, source):
    source.fetch("double", 3)
    repository.scan()
    shutil.rmtree(source.folder(3))
    del source.offsets[3]
    repository.scan()
    assert 3 not in states(repository)


def test_in_limited_memory_nothing_is_fetched_before_a_request_comes(make, source):
    repository = make(source=source, settle_seconds=0, max_bytes=2 * GRAPH_BYTES)
    repository.scan()
    found = repository.catalogue.describe_one("double")
    assert (found.version, found.state, found.answers) == (3, State.AVAILABLE, True)
    assert source.wanted == source.fetched == []
    assert answering(repository, "double") == (3, 30)
    assert source.fetched == [3]


def test_in_limited_memory_a_version_with_a_problem_is_not_the_default(make, source):
    source.problems[3] = "its sha256 differs"
    repository = make(source=source, settle_seconds=0, max_bytes=2 * GRAPH_BYTES)
    assert answering(repository, "double") == (2, 20)
    assert source.fetched == [2]


def test_a_scan_of_all_that_is_to_be_loaded_waits_for_it(repository, source):
    repository.scan_all_of("double")
    assert answering(repository, "double") == (3, 30)
    assert source.fetched == [3]
    repository.scan_all_of("nothing")


def test_the_folder_of_a_description_is_here_afterwards(repository, source):
    assert repository.catalogue.describe_one("double", 2).path == source.folder(2)
    assert repository.make_present("double", 2).path == source.folder(2) / "model.keras"
