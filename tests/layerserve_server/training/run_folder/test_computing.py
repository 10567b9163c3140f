"""Whether runs compute on this machine."""

from __future__ import annotations

import pytest
from layerserve_server.training.process.cpu_usage import SERVER
from layerserve_server.training.program import main
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.computing import computing, is_computing


def test_several_runs_compute_at_once(tmp_path):
    assert not is_computing(tmp_path), "there has been no run"
    with computing(tmp_path):
        with computing(tmp_path):
            assert is_computing(tmp_path)
        assert is_computing(tmp_path)
    assert not is_computing(tmp_path)


@pytest.mark.parametrize(
    ("variables", "marked"),
    [({SERVER: "7"}, True), ({SERVER: "7", main.PROGRAM: "of_an_extension"}, False), ({}, False)],
)
def test_a_run_of_a_server_of_this_machine_is_marked(tmp_path, monkeypatch, variables, marked):
    """Runs that Kubernetes starts elsewhere have no server's process id. A session may compute now and then only."""
    seen = []
    monkeypatch.setattr(main, "_work", lambda folder, request: seen.append(is_computing(tmp_path)) or 0)
    monkeypatch.delenv(SERVER, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "run"
    folder.mkdir()
    RunRequest(model="m", version=1, data=()).write(folder)
    assert main.main(folder) == 0
    assert seen == [marked]
    assert not is_computing(tmp_path)
