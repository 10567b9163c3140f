"""The study of a sweep in its journal: the settings of trials, the same however often the process is restarted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from layerserve_server.extensions.sweeps import study_process
from layerserve_server.extensions.sweeps.plan import Method, Plan
from layerserve_server.extensions.sweeps.space import Dimension
from layerserve_server.extensions.sweeps.study_process import StudyProcess

pytest.importorskip("optuna")
from layerserve_server.extensions.sweeps.study import Study

SPACE = (
    Dimension("optimizer", ("sgd", ["adam"], {"class_name": "rmsprop"})),
    Dimension("batch_size", low=8, high=32, step=8, integer=True),
    Dimension("optimizer.learning_rate", low=1e-4, high=1e-1, log=True),
    Dimension("dropout", low=0.0, high=0.5, step=0.25),
)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Study]:
    def make_study(method: Method = Method.RANDOM, space: Any = SPACE, folder: str = "a", seed: int = 3) -> Study:
        (tmp_path / folder).mkdir(exist_ok=True)
        return Study(tmp_path / folder, Plan(space, method, 10, 1, seed, "loss", False))

    return make_study


def test_settings_are_in_their_space_and_depend_on_the_seed_alone(make: Any) -> None:
    asked = [make().ask() for _ in range(12)]  # after a restart each
    assert [one["trial"] for one in asked] == list(range(12))
    other = make(folder="b")
    assert [other.ask() for _ in range(12)] == asked
    different = make(folder="c", seed=4)
    assert [different.ask() for _ in range(12)] != asked
    assert make().asked() == {"trials": asked}
    settings = [one["settings"] for one in asked]
    assert all(list(one) == [dimension.name for dimension in SPACE] for one in settings)
    assert [value for value in SPACE[0].values if value not in [one["optimizer"] for one in settings]] == []
    assert {one["batch_size"] for one in settings} <= {8, 16, 24, 32}
    assert {one["dropout"] for one in settings} <= {0.0, 0.25, 0.5}
    rates = sorted(one["optimizer.learning_rate"] for one in settings)
    assert 1e-4 <= rates[0] < 3e-3 < rates[-1] <= 1e-1


def test_a_grid_has_each_combination_once(make: Any) -> None:
    space = (Dimension("shuffle", (True, False)), Dimension("seed", low=1, high=3, integer=True))
    asked = []
    for _ in range(6):
        study = make(Method.GRID, space)
        asked.append(study.ask())
        study.end(asked[-1]["trial"], "finished", 1.0)
    found = {(one["settings"]["shuffle"], one["settings"]["seed"]) for one in asked}
    assert found == {(shuffle, seed) for shuffle in (True, False) for seed in (1, 2, 3)}


@pytest.mark.parametrize(
    ("state", "value", "kept"),
    [
        ("finished", 1.5, ("COMPLETE", 1.5)),
        ("finished", None, ("FAIL", None)),
        ("finished", float("inf"), ("FAIL", None)),
        ("failed", 2.0, ("FAIL", None)),
    ],
)
def test_a_trial_ends_once(make: Any, state: str, value: float | None, kept: tuple[str, float | None]) -> None:
    study = make()
    study.ask()
    assert study.end(0, state, value) == {}
    (trial,) = study._study.get_trials()
    assert (trial.state.name, trial.value) == kept
    assert make().end(0, "failed", None) == {}
    assert make()._study.get_trials()[0].state == trial.state


ENVIRONMENT = """
import json, os
input()
print(json.dumps({"trial": 0, "settings": {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OTHER")}}))
"""


def test_its_process_takes_one_thread_from_serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "telling.py").write_text(ENVIRONMENT)
    monkeypatch.setattr(study_process, "PROGRAM", "telling")
    for name, value in (("PYTHONPATH", str(tmp_path)), ("OMP_NUM_THREADS", "8"), ("OTHER", "kept")):
        monkeypatch.setenv(name, value)
    with StudyProcess(tmp_path) as process:
        assert process.ask() == (0, {"OMP_NUM_THREADS": "1", "OTHER": "kept"})
