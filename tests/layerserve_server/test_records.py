"""Files whose JSON is whole but has values of other types: each reader refuses them, and takes what was written."""

import json
import math
from dataclasses import asdict

import pytest
from layerserve_server.datasets.dataset import RECORD, ArrayInfo, Dataset, Declaration
from layerserve_server.records import DAMAGED
from layerserve_server.training import events
from layerserve_server.training.events import Event
from layerserve_server.training.request import DataArray, Role, RunRequest
from layerserve_server.training.run_folder.control import CONTROL, ControlFile, RunControl
from layerserve_server.training.run_folder.result import OUTCOME, RunResult

REQUEST = RunRequest("m", 1, (DataArray(Role.X, "x", "float32", (8, 4)),), epochs=3, class_weight={0: 1.0, 1: 2})
STEP = Event(3, 1e9, events.Step(1, 2, 3, 4, {"loss": math.nan, "accuracy": 1}))


@pytest.mark.parametrize(
    "changed",
    [
        *({"sequence": value} for value in ("3", None, 1.5, True, 2**70)),
        *({"time": value} for value in ("x", None, -1, 1e300, math.inf, math.nan)),
        *({"epoch": value} for value in ("1", [], 2**40)),
        *({"logs": value} for value in (None, [], {"loss": "x"}, {"loss": None})),
        {"unknown": 1},
    ],
)
def test_an_event_of_other_types_is_refused(changed):
    assert str(Event.from_line(STEP.to_line())) == str(STEP)
    line = json.dumps({**json.loads(STEP.to_line()), **changed}).encode()
    with pytest.raises(DAMAGED):
        Event.from_line(line)


@pytest.mark.parametrize(
    "changed",
    [
        *({"model": value} for value in (1, None, ["m"], {})),
        *({"epochs": value} for value in ("3", None, 0, 2**40, 1.5)),
        *({"metadata": value} for value in ("x", ["x"], {"x": 1})),
        *({"data": value} for value in (1, [1], [{"role": "x"}], [{**asdict(REQUEST.data[0]), "shape": ["8"]}])),
        {"budget": {"max_seconds": "x"}},
        {"class_weight": {"0": "x"}},
        {"priority": 2**31},
        {"kind": 1},
    ],
)
def test_a_request_of_other_types_is_refused(changed):
    assert RunRequest.from_json(REQUEST.to_json()) == REQUEST
    with pytest.raises(DAMAGED):
        RunRequest.from_json(json.dumps({**json.loads(REQUEST.to_json()), **changed}))


@pytest.mark.parametrize("lost", [("caller",), ("callers",), ("caller", "callers")])
def test_a_request_that_has_lost_its_owner_or_restriction_is_open_to_nobody(lost):
    kept = {name: value for name, value in json.loads(REQUEST.to_json()).items() if name not in lost}
    assert RunRequest.from_json(REQUEST.to_json()).callers is None
    assert RunRequest.from_json(json.dumps(kept)).callers == ()


def test_the_error_says_which_value_it_is():
    text = json.dumps({**json.loads(STEP.to_line()), "epoch": 2**31})
    with pytest.raises(TypeError, match=r"^epoch: got '2147483648' of type int, expected int from -2147"):
        Event.from_line(text.encode())


def test_a_result_and_a_control_of_other_types_count_as_none(tmp_path):
    RunResult("trained", epoch=2).write(tmp_path)
    assert RunResult.read(tmp_path).epoch == 2
    (tmp_path / OUTCOME).write_text(json.dumps({"kind": "trained", "epoch": "2"}))
    assert RunResult.read(tmp_path) is None
    (tmp_path / CONTROL).write_text(json.dumps({"priority": 2}))
    control = ControlFile(tmp_path)
    assert control.read() == RunControl(priority=2)
    (tmp_path / CONTROL).write_text(json.dumps({"priority": "high"}))
    assert control.read() == RunControl(priority=2)


def test_a_dataset_of_other_types_is_refused(tmp_path):
    folder = tmp_path / ("a" * 64)
    folder.mkdir()
    dataset = Dataset.new(Declaration("npz", 5, folder.name), "me", 7.0, (ArrayInfo("x", "float32", (1, 2)),))
    dataset.write(folder)
    assert Dataset.read(folder).arrays == dataset.arrays
    values = json.loads((folder / RECORD).read_text())
    for changed in (
        *({"created": value} for value in ("x", math.inf)),
        *({"format": value} for value in ("other", None)),
        {"id": "b" * 64},
        {"arrays": [{"name": "x", "dtype": "other", "shape": [1]}]},
        *({"owners": value} for value in ([1], [], [{**values["owners"][0], "keep_seconds": "x"}])),
    ):
        (folder / RECORD).write_text(json.dumps({**values, **changed}))
        with pytest.raises(DAMAGED):
            Dataset.read(folder)
