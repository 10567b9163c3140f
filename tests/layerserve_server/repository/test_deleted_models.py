"""Nothing is published of what began with a model that was deleted: it would come back without its settings."""

from __future__ import annotations

import os
import shutil

import pytest
from layerserve_server.errors import ModelGoneError, NotTrainableError, UnknownModelError
from layerserve_server.repository import publishing
from layerserve_server.repository.audit import AuditLog
from layerserve_server.repository.changes import Changes
from layerserve_server.repository.management import Manager
from layerserve_server.repository.writer import FolderWriter

ME = "ops"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "models"


@pytest.fixture
def world(make, put, tmp_path):
    """A repository with a model of two versions, and what manages it."""
    for version in (1, 2):
        put(version=version, offset=version)
    repository = make()
    return repository, Manager(repository, Changes(repository, AuditLog(tmp_path / "state")))


@pytest.fixture
def result(tmp_path):
    path = tmp_path / "result.keras"
    path.write_text('{"offset": 7}')
    return path


def publish(repository, result, base):
    return repository.publisher.publish_once("double", result, run="r1", base_version=base)


@pytest.mark.parametrize("base", [1, 2])
def test_a_deleted_model_gets_no_version(world, result, root, base):
    repository, manager = world
    manager.delete_model("double", ME, force=True)
    with pytest.raises(ModelGoneError, match=f"model 'double' was deleted since its version {base}: nothing is"):
        publish(repository, result, base)
    with pytest.raises(ModelGoneError):
        repository.publisher.check_publishable("double", base)
    assert result.exists(), "it is kept"
    assert [path.name for path in (root / "double").iterdir()] == ["serving.json"]
    repository.scan()
    with pytest.raises(UnknownModelError):
        repository.leases.lease("double")


def test_another_model_of_its_name_gets_versions_of_its_own_only(world, result, put, root):
    repository, manager = world
    manager.delete_model("double", ME, force=True)
    put(version=3, offset=3)
    repository.scan()
    with pytest.raises(ModelGoneError, match="since its version 2, and another one has its name"):
        publish(repository, result, 2)
    assert publish(repository, result, 3) == 4
    assert publishing.version_numbers(root / "double") in ([3, 4], [4, 3])


def test_a_folder_that_was_moved_gets_nothing_until_it_is_back(world, result, root, tmp_path):
    repository, _ = world
    (root / "double").rename(tmp_path / "aside")
    repository.scan()
    with pytest.raises(ModelGoneError):
        publish(repository, result, 1)
    assert not (root / "double").exists(), "or it couldn't be moved back"
    (tmp_path / "aside").rename(root / "double")
    repository.scan()
    assert publish(repository, result, 1) == 3


def test_it_is_not_known_whether_a_model_was_deleted(world, result, root):
    repository, _ = world
    (root / "double" / "serving.json").write_text("{")
    with pytest.raises(NotTrainableError, match=r"serving\.json"):
        repository.publisher.check_publishable("double", 1)
    shutil.rmtree(root / "double" / "1")
    with pytest.raises(Exception, match=r"serving\.json"):
        publish(repository, result, 2)
    assert publishing.version_numbers(root / "double") == [2]


def test_a_model_that_is_being_trained_is_deleted_by_force_only(make, put, tmp_path):
    put()
    work = [f"run 'r{number}'" for number in range(7)]
    repository = make()
    manager = Manager(repository, Changes(repository, AuditLog(tmp_path)), open_work=lambda name: work)
    # The model is loaded as well. That error alone would advise force, which withholds the runs' results.
    with pytest.raises(Exception, match=r"'double' is being trained by run 'r0', .*, run 'r4' and 2 more: cancel"):
        manager.delete_model("double", ME)
    manager.unload("double", ME)
    assert os.listdir(tmp_path / "models" / "double" / "1") == ["model.keras"]
    del work[1:]
    with pytest.raises(Exception, match=r"is being trained by run 'r0': cancel them, or use force, after"):
        manager.delete_model("double", ME)
    manager.delete_model("double", ME, force=True)
    assert repository.catalogue.describe("double") == []


def test_a_deletion_that_is_cut_off_leaves_no_version_without_its_settings(root, monkeypatch):
    """Also the versions of a model with a file in the root, whose settings are beside it or in its folder."""
    (root / "m" / "2").mkdir(parents=True)
    for file, text in {"m.keras": "{}", "m.toml": "", "m/2/model.keras": "{}", "m/layerserve.toml": ""}.items():
        (root / file).write_text(text)
    rename, left = os.rename, []

    def noted(source, target):
        rename(source, target)
        left.append({path.name for path in root.iterdir()} & {"m", "m.keras", "m.toml"})

    monkeypatch.setattr(os, "rename", noted)
    FolderWriter(root).withdraw_model("m", 2)
    assert left[:3] == [{"m", "m.toml"}, {"m.toml"}, set()]
