"""Files of a sweep: damaged ones are refused, and what is written survives a machine that loses power."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
from layerserve_server.errors import NotTrainableError
from layerserve_server.extensions.sweeps.base_copy import BASE, DESCRIPTION, Base, copy_base
from layerserve_server.extensions.sweeps.plan import PLAN, Method, Plan
from layerserve_server.extensions.sweeps.space import Dimension
from layerserve_server.extensions.sweeps.sweep import TRIALS, Sweep, Trial
from layerserve_server.records import DAMAGED
from layerserve_server.training.request import DataArray, Role, RunRequest
from synced import Disk

REQUEST = RunRequest("m", 1, (DataArray(Role.X, "x", "float32", (8, 4)),))
PLAN_OF = Plan((Dimension("seed", (1, 2)),), Method.GRID, 2, 1, 0, "loss", larger_is_better=False)
NO_OBJECTS = ("", "\0" * 100, "null", "1", '"x"', "[]", "NaN", "[" * 5000, "1" * 5000)


@pytest.mark.parametrize("text", NO_OBJECTS)
def test_what_is_no_object_is_an_error_of_values(text, tmp_path):
    (tmp_path / PLAN).write_text(text)
    with pytest.raises(ValueError, match=r"."):
        Plan.read(tmp_path)
    (tmp_path / TRIALS).write_text(text)
    sweep = Sweep("s", tmp_path, None, None, 0.0)
    with pytest.raises(ValueError, match=r"."):
        sweep.refresh()


@pytest.mark.parametrize(
    "changed",
    [
        *({"created_time": value} for value in ("x", None, math.inf)),
        *({"trials": value} for value in (None, [1], [{"number": 1}])),
        *({"state": value} for value in ("other", None, [])),
        {"best": "1"},
        {"unknown": 1},
        {"_saving": 1},
    ],
)
def test_a_damaged_sweep_is_refused_and_leaves_the_former_one(changed, tmp_path):
    REQUEST.write(tmp_path)
    PLAN_OF.write(tmp_path)
    sweep = Sweep("s", tmp_path, PLAN_OF, REQUEST, 5.0, trials=[Trial(0, {"seed": 1}, history={1: 0.5})])
    sweep.save()
    assert (Sweep.read(tmp_path).trials, Sweep.read(tmp_path).created_time) == (sweep.trials, 5.0)
    (tmp_path / TRIALS).write_text(json.dumps({**json.loads((tmp_path / TRIALS).read_text()), **changed}))
    with pytest.raises(DAMAGED):
        sweep.refresh()
    assert (sweep.created_time, len(sweep.trials), sweep.best) == (5.0, 1, -1)


def test_a_plan_of_other_types_is_refused(tmp_path):
    PLAN_OF.write(tmp_path)
    values = json.loads((tmp_path / PLAN).read_text())
    for changed in ({"trials": "2"}, {"dimensions": [{"name": 1, "values": []}]}, {"monitor": None}):
        (tmp_path / PLAN).write_text(json.dumps({**values, **changed}))
        with pytest.raises(DAMAGED):
            Plan.read(tmp_path)


@pytest.mark.parametrize("values", [{}, [], {"found": [], "inputs": [], "outputs": []}, {"inputs": [3]}])
def test_a_damaged_description_of_a_sweeps_base_is_named(values, tmp_path):
    (tmp_path / "base.json").write_text(json.dumps(values))
    with pytest.raises(NotTrainableError, match=r"base.json is damaged"):
        Base.read(tmp_path)


def test_the_plan_of_a_sweep_survives_a_power_failure(tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    settings = {"trials": 1, "parallel": 1, "seed": 1, "monitor": "loss"}
    Plan(dimensions=(), method=Method.GRID, larger_is_better=False, **settings).write(tmp_path)
    assert disk.lost(tmp_path / PLAN) == []


def test_the_copy_of_the_version_that_a_sweep_begins_with_survives_a_power_failure(tmp_path, monkeypatch):
    for folder in ("1", "sweep"):
        (tmp_path / folder).mkdir()
    for name in ("model.h5", "more"):
        (tmp_path / "1" / name).write_text(name)
    found = SimpleNamespace(name="m", version=1, path=tmp_path / "1" / "model.h5", fingerprint=(), parts=("more",))
    specs = SimpleNamespace(input_specs=(), output_specs=())
    disk = Disk(monkeypatch)
    copy_base(SimpleNamespace(found=found, parameter_count=1, model=specs), tmp_path / "sweep")
    assert disk.lost(tmp_path / "sweep" / DESCRIPTION, tmp_path / "sweep" / BASE) == []
