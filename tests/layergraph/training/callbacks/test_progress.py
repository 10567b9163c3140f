"""The progress bar of `fit`, `evaluate` and `predict` if the number of steps is unknown."""

from __future__ import annotations

import io

import layergraph
import numpy as np
import pytest
from clocks import replace_time
from layergraph.training.callbacks import progress
from layergraph.training.callbacks.progress import Progress


@pytest.mark.parametrize(("steps", "done", "shown"), [(None, 0, 0), (None, 3, 3), (4, 2, 4)])
def test_the_last_line_has_the_steps_done_where_none_are_known(steps: int | None, done: int, shown: int) -> None:
    stream = io.StringIO()
    bar = Progress(2, stream)
    bar.set_params({"steps": steps, "epochs": 1})
    bar.on_test_begin()
    for batch in range(done):
        bar.on_test_batch_end(batch)
    bar.on_test_end({"loss": 0.5})
    assert stream.getvalue().startswith(f"{shown}/{shown} - ")
    assert stream.getvalue().endswith(" - loss: 0.5000\n")


@pytest.fixture(name="clock")
def _clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The current time, as the only item of a list that tests change."""
    now = [100.0]
    replace_time(monkeypatch, progress, monotonic=lambda: now[0])
    return now


def lines(bar: Progress, stream: io.StringIO) -> list[str]:
    shown = stream.getvalue().split("\r")
    stream.seek(0)
    stream.truncate()
    return shown


def test_the_bar_grows_while_an_epoch_goes_on(clock: list[float]) -> None:
    stream = io.StringIO()
    bar = Progress(1, stream)
    bar.set_params({"steps": 20, "epochs": 3})
    bar.on_train_begin()
    bar.on_epoch_begin(1)
    clock[0] += progress.INTERVAL / 2
    bar.on_train_batch_end(0, {"loss": 1.0})
    assert lines(bar, stream) == ["Epoch 2/3\n"], "it is drawn only so often"
    clock[0] = 110.0
    bar.on_train_batch_end(4, {"loss": 0.25, "accuracy": 0.5})
    half, rest = "━" * (progress.WIDTH // 4), "─" * (progress.WIDTH - progress.WIDTH // 4)
    assert lines(bar, stream) == ["", f" 5/20 {half}{rest} 30s 2s/step - accuracy: 0.5000 - loss: 0.2500"]
    bar.on_test_begin()
    bar.on_test_batch_end(0, {"loss": 9.0})
    bar.on_test_end({"loss": 9.0})
    assert lines(bar, stream) == [""], "what validates while it trains draws nothing"
    clock[0] = 130.0
    bar.on_epoch_end(1, {"loss": 0.1})
    (_, last) = lines(bar, stream)
    assert last == f"20/20 {'━' * progress.WIDTH} 30s 2s/step - loss: 0.1000".ljust(len(last) - 1) + "\n"
    assert len(last) - 1 == len(f" 5/20 {half}{rest} 30s 2s/step - accuracy: 0.5000 - loss: 0.2500")


def test_a_bar_of_unknown_length_shows_what_is_done(clock: list[float]) -> None:
    stream = io.StringIO()
    bar = Progress(1, stream)
    bar.set_params({"steps": None, "epochs": 1})
    bar.on_predict_begin()
    clock[0] += 1.0
    bar.on_predict_batch_end(3)
    bar.on_predict_end()
    assert lines(bar, stream) == ["", "4/Unknown 250ms/step", "4/Unknown 1s 250ms/step\n"]


def test_after_training_an_evaluation_draws_again(clock: list[float]) -> None:
    stream = io.StringIO()
    bar = Progress(1, stream)
    bar.set_params({"steps": 2, "epochs": 1})
    bar.on_train_begin()
    bar.on_train_end()
    clock[0] += 7.0
    bar.on_test_begin()
    clock[0] += 1.0
    bar.on_test_batch_end(0, {"loss": 2.0})
    assert lines(bar, stream)[1].endswith(" 1s 1s/step - loss: 2.0000")


def test_predict_draws_a_bar_only_if_it_is_asked_to(capsys: pytest.CaptureFixture[str]) -> None:
    x = layergraph.Input((2,))
    model = layergraph.Model(x, x + 1)
    model.predict(np.ones((4, 2)))
    assert capsys.readouterr().out == ""
    model.predict(np.ones((4, 2)), batch_size=2, verbose=1)
    assert "2/2 ━" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0s"),
        (59.9, "59s"),
        (61, "1:01"),
        (125, "2:05"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (7384, "2:03:04"),
    ],
)
def test_times_to_come(seconds: float, text: str) -> None:
    assert progress.clock(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(1, "1s"), (12.6, "13s"), (0.5, "500ms"), (0.001, "1ms"), (0.0005, "500us")]
)
def test_times_of_a_step(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.5000"), (-2, "-2.0000"), (0.0011, "0.0011"), (1e-3, "1.0000e-03"), (0, "0.0000e+00"), ("a", "a")],
)
def test_numbers_of_logs(value: object, text: str) -> None:
    assert progress.number(value) == text
