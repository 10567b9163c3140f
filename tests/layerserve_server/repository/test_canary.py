"""Canary: which callers it answers, and when it is in force."""

from __future__ import annotations

import json

import pytest
from layerserve_server.repository.canary import Canary, read_share
from layerserve_server.repository.model_settings import ModelSettingsError, parse_settings

KEYS = [f"key user-{number}" for number in range(20_000)]


def answered(share, model="m"):
    canary = Canary(model, 2, share)
    return {key for key in KEYS if canary.takes(key)}


@pytest.mark.parametrize(("text", "share"), [("5 %", 0.05), ("0.5%", 0.005), ("100 %", 1.0), ("0 %", 0.0)])
def test_shares_are_written_in_percent(text, share):
    assert read_share(text) == share


@pytest.mark.parametrize("text", ["5", "0.05", "101 %", "-1 %", "5  %", "%", "five %", "1e1 %", "\u0665 %"])
def test_other_texts_are_no_shares(text):
    with pytest.raises(ModelSettingsError, match=r"canary: got .*, expected a share from '0%' to '100%'"):
        parse_settings(f"canary = {json.dumps(text)}".encode(), "layerserve.toml")


@pytest.mark.parametrize("text", ["canary = 5", 'canary_label = "a b"', 'canary_label = "x\\n"', 'canary_label = ""'])
def test_other_values_are_refused(text):
    with pytest.raises(ModelSettingsError, match=r"canary\w*: got "):
        parse_settings(text.encode(), "layerserve.toml")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.5, 0.99, 1.0])
def test_the_share_of_many_callers_is_exact_to_one_percent(share):
    assert len(answered(share)) / len(KEYS) == pytest.approx(share, abs=0.01)


def test_a_caller_stays_when_the_share_grows():
    before: set[str] = set()
    for share in (0.01, 0.05, 0.2, 0.5, 1.0):
        now = answered(share)
        assert before <= now
        before = now


def test_models_have_canaries_of_their_own():
    first, second = answered(0.5, "a"), answered(0.5, "b")
    assert len(first & second) / len(KEYS) == pytest.approx(0.25, abs=0.02)


def test_the_hash_is_the_same_in_all_processes():
    assert [number for number in range(12) if Canary("m", 2, 0.5).takes(f"key {number}")] == [1, 2, 4, 8, 9, 10]


# In a repository.


@pytest.fixture
def repository(make, put, tmp_path):
    put(version=1, offset=1)
    put(version=2, offset=2)
    put(version=3, offset=3)
    write(tmp_path, 'canary = "50 %"\ndefault_version = 1', canary=2)
    return make()


def write(tmp_path, settings, **labels):
    folder = tmp_path / "models" / "double"
    (folder / "layerserve.toml").write_text(settings)
    (folder / "labels.json").write_text(json.dumps(labels))


def test_its_version_is_loaded_before_requests_come(repository):
    assert repository.catalogue.canaries == {"double": Canary("double", 2, 0.5)}
    assert {one.version for one in repository.catalogue.describe() if one.ready_time} == {1, 2}


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ("default_version = 1", {"canary": 2}),
        ('canary = "0 %"\ndefault_version = 1', {"canary": 2}),
        ('canary = "50 %"\ndefault_version = 1', {"stable": 2}),
        ('canary = "50 %"\ndefault_version = 1\ncanary_label = "next"', {"canary": 2}),
        ('canary = "50 %"\ndefault_version = 2', {"canary": 2}),
        ('canary = "50 %"\ndefault_version = 1', {"canary": 9}),
    ],
    ids=["unset", "nobody", "without the label", "another label", "the default anyway", "a version that isn't there"],
)
def test_it_ends_when_settings_or_labels_change(repository, tmp_path, settings, labels):
    write(tmp_path, settings, **labels)
    # A version that isn't there may just be coming.
    for _ in range(2):
        repository.scan()
    assert repository.catalogue.canaries == {}


def test_it_follows_its_label_and_settings(repository, tmp_path):
    write(tmp_path, 'canary = "10 %"\ndefault_version = 1\ncanary_label = "next"', next=3)
    repository.scan()
    assert repository.catalogue.canaries == {"double": Canary("double", 3, 0.1)}


def test_wrong_settings_leave_it_as_it_was(repository, tmp_path):
    write(tmp_path, 'canary = "500 %"', canary=2)
    repository.scan()
    assert repository.catalogue.canaries == {"double": Canary("double", 2, 0.5)}


def test_a_version_that_cannot_be_loaded_is_none(repository, make, put, tmp_path):
    put(version=4, text="not a model")
    write(tmp_path, 'canary = "50 %"\ndefault_version = 1', canary=4)
    repository.scan()
    assert repository.catalogue.canaries["double"].version == 2, "the label moves when its version is ready"
    assert make().catalogue.canaries == {}


def test_it_ends_with_its_model(repository, tmp_path):
    (tmp_path / "models" / "double").rename(tmp_path / "away")
    repository.scan()
    assert repository.catalogue.canaries == {}


def test_a_call_sets_another_share(repository, tmp_path):
    folder = tmp_path / "models" / "double"
    repository.publisher.writer.write_control("double", canary=0.25)
    repository.scan()
    assert repository.catalogue.canaries == {"double": Canary("double", 2, 0.25)}
    repository.publisher.writer.write_control("double", canary=0.0)
    repository.scan()
    assert repository.catalogue.canaries == {}
    repository.publisher.writer.write_control("double", canary=None)
    repository.scan()
    assert repository.catalogue.canaries == {"double": Canary("double", 2, 0.5)}
    for wrong in ("5 %", 2, -1, True, None, [0.5]):
        (folder / "serving.json").write_text(json.dumps({"canary": wrong}))
        repository.scan()
        assert repository.catalogue.canaries["double"].share == 0.5
