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
    ("kind", "server", "marked"),
    [("training", True, True), ("evaluation", True, True), ("online", True, False), ("training", False, False)],
)
def test_a_run_of_a_server_of_this_machine_is_marked(tmp_path, monkeypatch, kind, server, marked):
    """Runs that Kubernetes starts elsewhere have no server's process id."""
    seen = []
    monkeypatch.setattr(main, "_work", lambda folder, request: seen.append(is_computing(tmp_path)) or 0)
    monkeypatch.delenv(SERVER, raising=False)
    if server:
        monkeypatch.setenv(SERVER, "7")
    folder = tmp_path / "run"
    folder.mkdir()
    RunRequest(model="m", version=1, data=(), kind=main.Kind(kind)).write(folder)
    assert main.main(folder) == 0
    assert seen == [marked]
    assert not is_computing(tmp_path)
