from __future__ import annotations

import io
import sys
from datetime import datetime, timezone

from layerserve import (
    CheckpointKept,
    EpochEnd,
    LogLine,
    RunCancelled,
    RunPaused,
    RunQueued,
    RunResumed,
    RunStarted,
    StepProgress,
)
from layerserve.cli import live_progress
from layerserve.cli.live_progress import LiveProgress, show_run
from rich.console import Console

AT = ("r", 0, datetime(2020, 1, 1, tzinfo=timezone.utc))


def test_the_bar_shows_epoch_steps_and_losses():
    console = Console(file=io.StringIO(), force_terminal=True, width=150, color_system=None, legacy_windows=False)
    with LiveProgress("mnist [x]", console) as live:
        live.show(RunQueued(*AT, 2))
        live.show(RunStarted(*AT, 2, 5, 160))
        live.show(LogLine(*AT, "warming [up]"))
        live.show(CheckpointKept(*AT, "[run]-3", 2, 7, 99))
        live.show(StepProgress(*AT, 2, 2, 3, 5, {"loss": 0.693147}))
        live.show(EpochEnd(*AT, 2, 2, 1.0, {"loss": 0.5, "val_loss": 0.25}))
    shown = console.file.getvalue()
    assert "warming [up]" in shown
    assert "checkpoint [run]-3 is kept" in shown
    last = shown.split("\r")[-1]
    assert "epoch 2/2" in last
    assert "8/10 steps" in last.replace(" 8/10", "8/10")
    assert "loss: 0.5 - val_loss: 0.25" in last


def test_a_narrow_terminal_shows_steps_and_time_and_all_logs():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None, legacy_windows=False)
    logs = {"accuracy": 0.371875, "loss": 1.895, "val_accuracy": 0.25, "val_loss": 2.1654}
    with LiveProgress("mnist", console) as live:
        live.show(RunStarted(*AT, 4, 100, 3200))
        live.show(StepProgress(*AT, 2, 4, 30, 100, logs))
    last = console.file.getvalue().split("epoch 2/4")[-1]
    assert "130/400 steps 0:00:00 <" in last
    for name in logs:
        assert name in last


def test_waiting_starting_and_going_on_are_said():
    def shown(event):
        console = Console(file=io.StringIO(), force_terminal=True, width=150, color_system=None, legacy_windows=False)
        with LiveProgress("mnist", console) as live:
            live.show(event)
        return console.file.getvalue().split("\r")[-1]

    assert "waiting for 2 other runs" in shown(RunQueued(*AT, 2))
    alone = shown(RunQueued(*AT, 0))
    assert "waiting" in alone
    assert "other runs" not in alone
    assert "starting" in shown(RunStarted(*AT, 2, 5, 160))
    assert "resumed from its checkpoint" in shown(RunResumed(*AT, 2, 7))
    assert "restarted from the beginning" in shown(RunResumed(*AT, 0, 0))
    assert " paused  " in shown(RunPaused(*AT, 2, 7, ""))
    assert "paused: the disk [is] full" in shown(RunPaused(*AT, 2, 7, "the disk [is] full"))


class Run(list):
    model = "mnist"


def test_a_terminal_has_a_bar_and_a_file_lines(capsys, monkeypatch):
    cancelled = RunCancelled(*AT, 1)
    run = Run([RunStarted(*AT, 2, 5, 160), cancelled])
    assert show_run(run) is cancelled
    assert show_run(Run(run[:1])) is None
    plain = capsys.readouterr().err
    shown = []
    monkeypatch.setattr(live_progress.LiveProgress, "show", lambda _, event: shown.append(event))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert show_run(run) is cancelled
    assert shown == run
    assert "mnist" in capsys.readouterr().err
    assert "mnist" not in plain
