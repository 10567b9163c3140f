"""Listing: which versions a store's objects are, whatever their names."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layerserve_server.extensions.object_stores.objects import MAX_FILES, StoredObject
from layerserve_server.extensions.stores.listing import RemoteVersion, arrange


def listed(*paths, root="models"):
    return arrange([StoredObject(path, 1, "a") for path in paths], root)


def files(*paths, root="models"):
    return {key: sorted(one.files) for key, one in listed(*paths, root=root).versions.items()}


def test_versions_are_numbered_folders_with_all_their_files():
    found = files("m/1/model.keras", "m/1/golden.npz", "m/20/saved_model.pb", "m/20/variables/variables.index")
    assert found == {
        ("m", 1): ["golden.npz", "model.keras"],
        ("m", 20): ["saved_model.pb", "variables/variables.index"],
    }


@pytest.mark.parametrize(
    "path",
    [
        *(
            "m/0/model.keras",
            "m/01/model.keras",
            "m/v1/model.keras",
            "m/model.keras",
            "notes.txt",
            "/m/1/x",
            "../m/1/x",
        ),
        *(".m/1/model.keras", "m/1/.hidden", "m/1/.folder/x", "m /1/x", "m/1"),
    ],
)
def test_what_has_no_place_in_a_repository_is_no_version(path):
    assert files(path) == {}


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "a/../../x",
        "/etc/passwd",
        "a//b",
        "a/./b",
        "x/",
        "a\\b",
        "a\nb",
        "a\0b",
        "\ud800",
        "x" * 201,
        "a/" * 9 + "b",
    ],
)
def test_a_name_that_is_no_file_name_refuses_its_version_alone(path):
    found = listed("m/1/model.keras", f"m/1/{path}", "m/2/model.keras").versions
    assert "can't be a file" in found["m", 1].problem
    assert (found["m", 1].files, found["m", 2].problem) == ({}, "")
    assert found["m", 1].problem.isprintable()


def test_a_file_and_a_folder_of_one_name_are_refused():
    (one,) = listed("m/1/model.keras", "m/1/model.keras/x").versions.values()
    assert "both a file and a folder" in one.problem


def test_too_many_files_are_refused():
    (one,) = listed(*(f"m/1/{number}" for number in range(MAX_FILES + 1))).versions.values()
    assert one.problem == f"the version has {MAX_FILES + 1} files, expected up to {MAX_FILES}"


def test_a_manifest_that_is_too_large_is_not_fetched():
    large = [StoredObject("m/1/model.keras", 1, "a"), StoredObject("m/1/manifest.json", 300_000_000, "b")]
    problem = "manifest.json: got 300000000 bytes, expected up to 65536"
    assert arrange(large, "models").versions["m", 1].problem == problem


def test_a_flat_file_is_version_1_with_its_proof_unless_there_is_a_folder():
    assert files("m.keras", "m.golden.npz", "m.calibration.npz", "n.h5", "n/1/model.h5") == {
        ("m", 1): ["calibration.npz", "golden.npz", "m.keras"],
        ("n", 1): ["model.h5"],
    }


def test_a_root_may_be_one_model():
    preset = ("config.json", "model.weights.h5", "assets/tokenizer/vocabulary.txt", ".gitattributes")
    assert files(*preset, root="bert_tiny") == {
        ("bert_tiny", 1): ["assets/tokenizer/vocabulary.txt", "config.json", "model.weights.h5"]
    }
    saved = ("saved_model.pb", "variables/variables.index")
    assert files(*saved, root="m") == {("m", 1): ["saved_model.pb", "variables/variables.index"]}
    assert files(*saved, root="..") == {}
    (refused,) = listed(*saved, "a/../../b", root="m").versions.values()
    assert refused.problem


def test_small_objects_of_models():
    found = listed(
        "m/labels.json", "m/layerserve.toml", "m/serving.json", "m/other.json", "labels.json", "../labels.json"
    )
    assert sorted(found.of_models) == ["m/labels.json", "m/layerserve.toml", "m/serving.json"]


def test_settings_beside_a_flat_file_become_those_of_its_folder():
    found = listed("m.keras", "m.toml", "n.toml", "o.keras", "o.toml", "o/layerserve.toml")
    assert {path: one.path for path, one in found.of_models.items()} == {
        "m/layerserve.toml": "m.toml",
        "o/layerserve.toml": "o/layerserve.toml",
    }


def test_the_identity_changes_with_each_object():
    def identity(*objects):
        (one,) = arrange(
            [StoredObject(f"m/1/{name}", size, mark) for name, size, mark in objects], ""
        ).versions.values()
        return one.identity

    different = [
        [("a", 1, "x"), ("b", 1, "x")],
        [("a", 1, "x")],
        [("a", 1, "x"), ("b", 1, "y")],
        [("a", 1, "x"), ("b", 2, "x")],
        [("a", 1, "x"), ("c", 1, "x")],
    ]
    assert len({identity(*one) for one in different}) == len(different)
    assert identity(("a", 1, "x"), ("b", 1, "y")) == identity(("b", 1, "y"), ("a", 1, "x"))


def test_a_claim_marks_a_version_and_is_no_file_of_it():
    (one,) = listed("m/1/model.keras", "m/1/.publishing").versions.values()
    assert one.claimed
    assert sorted(one.files) == ["model.keras"]


@given(st.lists(st.text(string.ascii_lowercase[:3] + "./\\\0\n1é\ud800", max_size=12), max_size=8))
def test_any_names_give_paths_that_stay_in_their_folder(paths):
    objects = [StoredObject(prefix + path, 1, "") for path in paths for prefix in ("", "m/1/")]
    found = arrange(objects, "m")
    for one in found.versions.values():
        for name in one.files:
            parts = name.split("/")
            assert not {"", ".", ".."} & set(parts)
            assert "\\" not in name
            assert name.isprintable()
        assert RemoteVersion.from_json(json.loads(json.dumps(one.as_json()))) == one


@pytest.mark.parametrize("size", [-1, 2**63, 10**400])
@pytest.mark.parametrize("path", ["m/1/model.keras", "m.keras"])
def test_a_size_that_no_file_can_have_refuses_its_version_alone(path, size):
    objects = [StoredObject(path, size, "a"), StoredObject("other.keras", 1, "a")]
    found = {one.name: one.problem for one in arrange(objects, "models").versions.values()}
    assert "got size" in found["m"]
    assert found["other"] == ""


@pytest.mark.parametrize(
    "change",
    [{"name": "../m"}, {"version": -1}, {"files": {"../model.keras": {"path": "a", "size": 1, "identity": "a"}}}],
)
def test_a_kept_listing_that_was_changed_is_refused(change):
    (one,) = listed("m/1/model.keras").versions.values()
    with pytest.raises(ValueError, match=r"got version -?1 of '.*m', expected one that a store can have"):
        RemoteVersion.from_json({**one.as_json(), **change})
