"""What calls have set for a run is followed while it trains."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from clocks import replace_time
from layerserve_server.training.process import run_commands
from layerserve_server.training.process.run_commands import LOOK_SECONDS, RunCommands
from layerserve_server.training.run_folder.control import ControlFile


def test_after_a_batch_it_is_looked_up_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else short steps would be spent on looking at the file."""
    now = [100.0]
    replace_time(monkeypatch, run_commands, monotonic=lambda: now[0])
    commands, model = RunCommands(tmp_path, None), SimpleNamespace(stop_training=False)  # type: ignore[arg-type]
    commands.model = model  # type: ignore[assignment]
    stopped: list[Any] = []
    for passed in (0.0, 0.6, 0.6):
        now[0] += passed * LOOK_SECONDS
        commands.on_train_batch_end(0)
        stopped.append(model.stop_training)
        ControlFile(tmp_path).set(stop=True)
    assert stopped == [False, False, True]


def test_after_an_epoch_it_is_looked_up_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_time(monkeypatch, run_commands, monotonic=lambda: 100.0)
    commands, model = RunCommands(tmp_path, None), SimpleNamespace(stop_training=False)  # type: ignore[arg-type]
    commands.model = model  # type: ignore[assignment]
    commands.on_train_batch_end(0)
    ControlFile(tmp_path).set(stop=True)
    commands.on_epoch_end(0)
    assert model.stop_training
