from __future__ import annotations

import io
from datetime import datetime, timezone

import pytest
from layerserve import EpochEnd, RunCancelled, RunFailed, RunFinished, RunPaused, RunResumed, StepProgress
from layerserve.training.progress import PlainProgress, format_logs, format_seconds

AT = ("r", 0, datetime(2020, 1, 1, tzinfo=timezone.utc))
STEP = StepProgress(*AT, 1, 2, 3, 4, {"loss": 0.693147, "accuracy": 0.5})
EPOCH = EpochEnd(*AT, 1, 2, 1.25, {"loss": 0.5})


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_numbers_have_four_digits():
    assert format_logs({"loss": 0.693147, "lr": 1e-6, "n": float("nan")}) == "loss: 0.6931 - lr: 1e-06 - n: nan"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 ms"), (0.00043, "0.43 ms"), (0.038, "38 ms"), (0.5, "500 ms"), (1.25, "1.2 s"), (3661.0, "3661.0 s")],
)
def test_short_times_are_in_milliseconds(seconds, text):
    """'0.0 s' would say nothing of an epoch of 38 milliseconds, as most of small models take."""
    assert format_seconds(seconds) == text
    stream = io.StringIO()
    PlainProgress(stream).show(EpochEnd(*AT, 1, 2, seconds, {"loss": 0.5}))
    assert stream.getvalue() == f"epoch 1/2 - {text} - loss: 0.5\n"


def test_a_log_gets_a_line_for_each_epoch_and_none_for_steps():
    stream = io.StringIO()
    progress = PlainProgress(stream)
    for event in (STEP, EPOCH, RunFinished(*AT, None, 2.5, {})):
        progress.show(event)
    assert stream.getvalue() == "epoch 1/2 - 1.2 s - loss: 0.5\nfinished in 2.5 s, nothing published\n"


def test_a_terminal_gets_a_line_that_is_rewritten_and_wiped():
    stream = Terminal()
    progress = PlainProgress(stream)
    progress.show(STEP)
    progress.show(EPOCH)
    first, second = stream.getvalue().split("\r")[1:]
    assert first == "epoch 1/2 - step 3/4 - loss: 0.6931 - accuracy: 0.5"
    assert second == "epoch 1/2 - 1.2 s - loss: 0.5".ljust(len(first)) + "\n"


def test_each_line_can_be_seen_at_once():
    written = io.BytesIO()
    progress = PlainProgress(io.TextIOWrapper(written))
    progress.show(EPOCH)
    assert written.getvalue() == b"epoch 1/2 - 1.2 s - loss: 0.5\n"


def test_endings_are_said():
    stream = io.StringIO()
    progress = PlainProgress(stream)
    for event in (
        RunFailed(*AT, "loss is NaN", 1, 2),
        RunCancelled(*AT, 1),
        RunFinished(*AT, 7, 1.0, {}),
        RunFinished(*AT, None, 1.0, {}, "no improvement"),
        RunPaused(*AT, 2, 3),
        RunPaused(*AT, 0, 0, "the disk is full"),
        RunResumed(*AT, 2, 3),
        RunResumed(*AT, 0, 0),
    ):
        progress.show(event)
    assert stream.getvalue().splitlines() == [
        "failed: loss is NaN",
        "cancelled",
        "finished in 1.0 s, published version 7",
        "finished in 1.0 s, nothing published: no improvement",
        "paused in epoch 2, after step 3",
        "paused: the disk is full",
        "resumed in epoch 2, after step 3",
        "restarted from the beginning",
    ]
