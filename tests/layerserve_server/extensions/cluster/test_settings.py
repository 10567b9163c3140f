"""Settings of runs in a cluster."""

import pytest
from layerserve_server.commands.settings_reader import SettingsError, read_settings
from layerserve_server.settings.settings import missing_paths
from missing_packages import check_named

KUBERNETES, JOB = ["--training-backend", "kubernetes"], ["--training-job", "job.yaml"]


def test_runs_are_processes_of_this_machine_unless_a_cluster_is_given():
    settings = read_settings([])
    assert (settings.training_backend, settings.training_job) == ("local", None)


@pytest.mark.parametrize("flags", [KUBERNETES, JOB])
def test_a_cluster_and_a_manifest_go_together(flags):
    with pytest.raises(SettingsError, match="expected a manifest for 'kubernetes' and none otherwise"):
        read_settings(flags)


def test_a_manifest_that_is_not_there_is_told(tmp_path):
    (told,) = missing_paths(read_settings([str(tmp_path), *KUBERNETES, *JOB]))
    assert told.startswith("--training-job ")
    assert told.endswith("got 'job.yaml', expected a file that exists")


def test_the_cluster_names_the_package_that_it_needs(monkeypatch):
    line = r"--training-backend \(.*\): requires lightkube: pip install lightkube"
    check_named(monkeypatch, [*KUBERNETES, *JOB], ["lightkube"], line)
