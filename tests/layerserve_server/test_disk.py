"""Files that the server writes for itself: damage of one of them is an error that their readers expect."""

import json

import pytest
from layerserve_server import records
from layerserve_server.datasets.dataset import RECORD, SAMPLE, Dataset, read_samples
from layerserve_server.datasets.part import NOTE as UPLOAD
from layerserve_server.datasets.part import read_note
from layerserve_server.disk import json_object, locked
from layerserve_server.errors import NotTrainableError
from layerserve_server.extensions.sweeps.base_copy import Base
from layerserve_server.extensions.sweeps.plan import PLAN, Plan
from layerserve_server.extensions.sweeps.sweep import TRIALS, Sweep
from layerserve_server.kept.folders import KeptFolders
from layerserve_server.remote.cache import Cache
from layerserve_server.repository.usage import Usage
from layerserve_server.training.digests import data_identity
from layerserve_server.training.events import Event
from layerserve_server.training.online.publications import NOTE, read_published
from layerserve_server.training.process.main import _locked
from layerserve_server.training.process.trial_times import TRIAL, TrialTimes
from layerserve_server.training.request import RunRequest
from layerserve_server.training.result import OUTCOME, RunResult
from layerserve_server.training.runs import trace
from layerserve_server.training.runs.folder import CHILD_LOCK, DIGESTS
from layerserve_server.training.runs.owner import OWNER_LOCK, FolderOwner
from layerserve_server.training.sinks.follower import Follower
from layerserve_server.training.upload import DATA, _alone
from layerserve_server.training.upload import LOCK as UNPACKING

DAMAGED = ("", "\0" * 100, "null", "1", '"x"', "[]", "NaN", "[" * 5000, "1" * 5000)


@pytest.mark.parametrize("text", DAMAGED)
def test_what_is_no_object_is_an_error_of_values(text, tmp_path):
    for read in (json_object, RunRequest.from_json, lambda text: Event.from_line(text.encode())):
        with pytest.raises(ValueError, match=r"."):
            read(text)
    for name, read in ((RECORD, Dataset.read), (PLAN, Plan.read)):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=r"."):
            read(tmp_path)
    (tmp_path / TRIALS).write_text(text)
    for name, read in ((OUTCOME, RunResult.read), (NOTE, read_published)):
        (tmp_path / name).write_text(text)
        assert read(tmp_path) is None
    sweep = Sweep("s", tmp_path, None, None, 0.0)
    with pytest.raises(ValueError, match=r"."):
        sweep.refresh()


def none_of_sinks(folder):
    return Follower(folder, None, folder / "note.json")._places


#: Files that a server can do without, by name: where they are, and what reads them.
OPTIONAL = {
    "digests": (DIGESTS, lambda folder: data_identity(folder, RunRequest("m", 1, ()))),
    "trace": (trace.TRACE, lambda folder: trace.variables(folder)),
    "trial": (TRIAL, TrialTimes.read),
    "sink": ("note.json", none_of_sinks),
    "upload": (UPLOAD, lambda folder: read_note(folder).bytes),
    "samples": (SAMPLE, read_samples),
    "usage": ("usage.json", lambda folder: Usage(folder / "usage.json").read()),
    "listing": ("listing.json", lambda folder: Cache(folder).read_listing()),
    "graphs": ("digests.json", lambda folder: KeptFolders(folder, (), max_bytes=0, making_seconds=0)._is_whole(folder)),
}
#: Whether the log names a file that is damaged; others are made anew without that.
NAMED = {"digests", "trace", "sink", "upload", "samples", "usage"}


@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.parametrize("damage", [*DAMAGED, "a folder", "too large", "a dangling link"])
def test_without_a_file_that_is_damaged_a_server_goes_on(name, damage, tmp_path, caplog, monkeypatch):
    file, read = OPTIONAL[name]
    if damage == "a folder":
        (tmp_path / file).mkdir()
    elif damage == "a dangling link":
        (tmp_path / file).symlink_to(tmp_path / "gone")
    elif damage == "too large":
        monkeypatch.setattr(records, "MAX_BYTES", 100)
        (tmp_path / file).write_text(json.dumps({"x" * 100: {}}))
    else:
        (tmp_path / file).write_text(damage)
    for _ in range(2):
        assert not read(tmp_path)
    named = sum(str(tmp_path / file) in record.getMessage() for record in caplog.records)
    assert named == (name in NAMED and damage != "a dangling link")


#: Objects of wrong values, by name of the file.
WRONG = [
    ("trace", {"traceparent": 3}),
    ("trace", {"traceparent": ["a"]}),
    ("trace", {"traceparent": "a\0b"}),
    ("trace", {"traceparent": "\udcff"}),
    ("trial", {"laps": 3}),
    ("trial", {"laps": [{"what": "step", "seconds": "1"}]}),
    ("sink", {"lost": "x", "places": []}),
    ("sink", {"lost": None, "places": {"r": 3}}),
    ("sink", {"places": {"r": {"sequence": "5"}}}),
    ("sink", {"places": {"r": {"other": 5}}}),
    ("upload", {"bytes": "5"}),
    ("upload", {"other": 5}),
    ("samples", {"x": 3}),
    ("samples", {"x": {"rows": 1}}),
    ("samples", {"x": {"rows": 1, "data": "?"}}),
    ("samples", {"x": {"rows": 10**30, "data": ""}}),
    ("usage", {"m": 10**400}),
    ("usage", {"m": True}),
    ("listing", {"versions": [], "of_models": {}, "problems": []}),
    ("listing", {"versions": [{"name": 3}], "of_models": {}, "problems": {}}),
    ("listing", {"versions": [], "of_models": {"../x": {"path": "", "size": 1, "identity": ""}}, "problems": {}}),
    (
        "listing",
        {"versions": [], "of_models": {"m/labels.json": {"path": "", "size": "1", "identity": ""}}, "problems": {}},
    ),
]


@pytest.mark.parametrize(("name", "values"), WRONG)
def test_wrong_values_are_left_out(name, values, tmp_path):
    file, read = OPTIONAL[name]
    (tmp_path / file).write_text(json.dumps(values))
    assert not read(tmp_path)


@pytest.mark.parametrize("values", [{}, [], {"found": [], "inputs": [], "outputs": []}, {"inputs": [3]}])
def test_a_damaged_description_of_a_sweeps_base_is_named(values, tmp_path):
    (tmp_path / "base.json").write_text(json.dumps(values))
    with pytest.raises(NotTrainableError, match=r"base.json is damaged"):
        Base.read(tmp_path)


LOCKS = {
    "locked": ("lock", lambda folder: locked(folder / "lock").__enter__()),
    "kept": (f"locks/{'a' * 2}", lambda folder: KeptFolders(folder, (), max_bytes=0, making_seconds=0)._lock("a" * 64)),
    "data": (f"{DATA}/{UNPACKING}", lambda folder: _alone(folder).__enter__()),
    "owner": (OWNER_LOCK, lambda folder: FolderOwner(folder).acquire()),
    "process": (CHILD_LOCK, lambda folder: _locked(folder).__enter__()),
}


@pytest.mark.parametrize("name", LOCKS)
def test_what_a_link_in_place_of_a_lock_leads_to_is_not_emptied(name, tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    path, lock = LOCKS[name]
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError, match="symbolic links"):
        lock(tmp_path)
    assert (tmp_path / "theirs").read_text() == "theirs"


def test_an_object_is_read():
    assert json_object('{"a": [1, NaN]}')["a"][0] == json_object(b'{"a": 1}')["a"] == 1
