"""Settings of the trackers."""

import pytest
from layerserve_server.commands.settings_reader import SettingsError, read_settings
from missing_packages import check_named

BOTH = ["--run-sinks", "wandb:p,mlflow:http://m"]


def test_runs_are_copied_nowhere_unless_trackers_are_given():
    assert read_settings([]).run_sinks == ""
    assert read_settings([]).trackers == ()
    assert read_settings(["--run-sinks", "wandb:p, mlflow:http://m"]).trackers == ("wandb:p", "mlflow:http://m")


@pytest.mark.parametrize("given", ["wandb:p,neptune:p", "mlflow:"])
def test_what_is_no_tracker_is_refused(given):
    text = f"got '{given.rpartition(',')[2]}', expected mlflow:URI or wandb:PROJECT"
    with pytest.raises(SettingsError, match=rf"--run-sinks .*{text}"):
        read_settings(["--run-sinks", given])


def test_a_tracker_names_the_package_that_it_needs(monkeypatch):
    for kind, package in (("mlflow", "mlflow-skinny"), ("wandb", "wandb")):
        line = rf"--run-sinks \(.*\): requires {package}: pip install {package}"
        check_named(monkeypatch, BOTH, [kind], line)
