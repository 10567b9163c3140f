"""What a run's process does, in this process: it trains or evaluates a real model, and leaves all in its folder."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clocks import replace_time
from layergraph import Input, Model, layers, load_model
from layergraph.training.callbacks.callback import Callback
from layerserve.training.options.contract import Budget
from layerserve.values.table_files.table import Selection
from layerserve_server.datasets.data_file import DataFile
from layerserve_server.training import events, precision
from layerserve_server.training.event_log import EventLog
from layerserve_server.training.events import EventWriter
from layerserve_server.training.process import reporting, warm_start, work
from layerserve_server.training.process.checkpoints import RunCheckpoints
from layerserve_server.training.process.reporting import EvaluationReporter, Position, Reporter
from layerserve_server.training.program import main as child
from layerserve_server.training.request import EVALUATION, DataArray, Role, RunRequest
from layerserve_server.training.run_folder.checkpoints import KeptCheckpoints
from layerserve_server.training.run_folder.control import ControlFile
from layerserve_server.training.run_folder.data import array_file
from layerserve_server.training.run_folder.layout import (
    BASE,
    BEST,
    CACHE,
    CHECKPOINTS,
    CHILD_LOCK,
    KEPT,
    RIVAL,
    result_file,
)
from layerserve_server.training.run_folder.result import INTERRUPT, NO_SPACE, RunResult
from small_runs import assert_bit_for_bit

X = np.random.default_rng(0).standard_normal((12, 3)).astype("float32")
Y = (X @ np.array([[1.0], [-2.0], [0.5]]) + 3).astype("float32")
ROLES = {Role.X: X, Role.Y: Y}
VALIDATED = {**ROLES, Role.VALIDATION_X: X[:5], Role.VALIDATION_Y: Y[:5]}


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Any]]:
    """What the process makes of signals; this one's own stay."""
    made: list[tuple[int, Any]] = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: made.append((number, handler)))
    return made


@pytest.fixture
def niceness(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How far the process stands back."""
    asked: list[int] = []
    monkeypatch.setattr(work, "lower_priority", asked.append)
    monkeypatch.setattr(work, "CpuYield", Callback)
    return asked


@pytest.fixture
def carried_out(
    tmp_path: Path, signals: list[tuple[int, Any]], niceness: list[int], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[RunResult, EventLog]]:
    """Carries a run of a small model out; how it ended, and what it told."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "set_flush_denormal", lambda on: on)

    def carry(
        data: dict[Role, np.ndarray] | None = None, file: DataFile | None = None, **settings: Any
    ) -> tuple[RunResult, EventLog]:
        arrays = data or ROLES
        names = {role: "x" if role in (Role.X, Role.VALIDATION_X) else "y" for role in arrays}
        told = tuple(
            DataArray(role, names[role], "float32", value.shape, file, Selection((role.value,)), mapped=bool(file))
            for role, value in arrays.items()
        )
        compiled = {
            "optimizer": {"class_name": "SGD", "config": {"learning_rate": 0.1}},
            "loss": "mse",
            "metrics": ["mae"],
        }
        given = {"epochs": 3, "batch_size": 4, "nice": 0, "seed": 5, "compile": compiled, "checkpoint_seconds": 1e9}
        request = RunRequest(model="m", version=7, data=told, **{**given, **settings})
        if not (tmp_path / BASE).exists():
            (tmp_path / BASE).mkdir()
            x = Input((3,), name="x")
            Model(x, layers.Dense(1, name="y")(x)).save(tmp_path / BASE / "model.keras")
            (tmp_path / "data").mkdir()
        if file is None:
            for index, value in enumerate(arrays.values()):
                np.save(array_file(tmp_path, index), value)
        else:
            np.savez(Path(file.folder, file.path), **{role.value: value for role, value in arrays.items()})
        request.write(tmp_path)
        (tmp_path / "outcome.json").unlink(missing_ok=True)
        assert child.main(tmp_path) == 0
        outcome = RunResult.read(tmp_path)
        assert outcome is not None
        return outcome, EventLog.read(tmp_path)

    yield carry
    torch.set_num_threads(threads)


def frozen_base(folder: Path) -> None:
    """A base with a layer that a request can freeze."""
    (folder / BASE).mkdir()
    (folder / "data").mkdir()
    x = Input((3,), name="x")
    h = layers.Dense(4, name="trunk")(x)
    Model(x, layers.Dense(1, name="y")(h)).save(folder / BASE / "model.keras")


def of(log: EventLog, kind: type) -> list[Any]:
    return [event.what for event in log.events if isinstance(event.what, kind)]


def loss(file: Path) -> float:
    return float(np.square(load_model(file).predict(X) - Y).mean())


def test_a_run_trains_and_leaves_its_model_and_what_it_did(
    carried_out: Any, tmp_path: Path, niceness: list[int], signals: list[tuple[int, Any]]
) -> None:
    outcome, log = carried_out(nice=3, threads=2)
    assert (outcome.kind, outcome.epoch, outcome.withheld) == ("trained", 3, "")
    assert outcome.seconds > 0
    assert set(outcome.logs) == {"loss", "mae"}
    assert [each.text for each in of(log, events.Log)] == ["from version 7, seed 5, threads 2"]
    assert of(log, events.Started) == [events.Started(3, 3, 12)]
    epochs = of(log, events.Epoch)
    assert [(each.epoch, each.epochs) for each in epochs] == [(1, 3), (2, 3), (3, 3)]
    assert epochs[-1].logs == outcome.logs
    assert epochs[0].logs["loss"] > epochs[2].logs["loss"]
    assert [each.step for each in of(log, events.Step)][-1] == 3
    assert of(log, events.Resumed) == []
    assert loss(result_file(tmp_path)) < loss(tmp_path / BASE / "model.keras")
    assert niceness == [3]
    assert torch.get_num_threads() == 2
    # While it trains it can be interrupted and stopped; what is kept is kept whole.
    handlers = [number for number, handler in signals if handler is signal.SIG_IGN]
    assert handlers == [INTERRUPT, signal.SIGTERM]
    assert signals[0] == (signal.SIGTERM, child._stop)
    assert (tmp_path / CHILD_LOCK).read_text().split()[0] == str(os.getpid())


def test_the_log_of_a_run_says_how_it_began(carried_out: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ("goes on from checkpoint r0/e1", "the state of 2 variables is lost")
    monkeypatch.setattr(warm_start, "begin", lambda *_: warm_start.Beginning(texts=texts))
    _, log = carried_out()
    assert [each.text for each in of(log, events.Log)][1:] == [*texts]


def test_the_same_run_gives_the_same_numbers(carried_out: Any, tmp_path: Path) -> None:
    first, _ = carried_out()
    second, _ = carried_out()
    other, _ = carried_out(seed=6)
    assert first.logs == second.logs != other.logs


def test_a_run_validates(carried_out: Any) -> None:
    outcome, _ = carried_out(VALIDATED)
    assert set(outcome.logs) == {"loss", "mae", "val_loss", "val_mae"}


def test_the_best_epochs_model_is_the_result(carried_out: Any, tmp_path: Path) -> None:
    """With a rate at which every epoch is worse than the one before, the first is best."""
    wild = {"optimizer": {"class_name": "SGD", "config": {"learning_rate": 1.2}}, "loss": "mse"}
    _, log = carried_out(VALIDATED, publish="best", compile=wild, on_nan="continue")
    (kept,) = KeptCheckpoints(tmp_path / BEST).list()
    values = [each.logs["val_loss"] for each in of(log, events.Epoch)]
    assert values[0] < values[1] < values[2]
    assert (kept.id, kept.epoch, kept.score) == ("e1", 1, -values[0])
    assert of(log, events.Log)[-1].text == "the best epoch is 1"
    assert sorted(path.name for path in (tmp_path / BEST).iterdir()) == ["e1.ckpt", "e1.json"]
    # The same as of a run of one epoch.
    best = load_model(result_file(tmp_path)).get_weights()
    shutil.rmtree(tmp_path / CHECKPOINTS)
    carried_out(VALIDATED, compile=wild, on_nan="continue", epochs=1)
    assert_bit_for_bit(load_model(result_file(tmp_path)).get_weights(), best)


#: The losses are finite, and the last step overflows.
LARGE = {Role.X: X, Role.Y: 1000 * Y}
OVERFLOWS = {"optimizer": {"class_name": "SGD", "config": {"learning_rate": 3e38}}, "loss": "mse"}


NOT_FINITE = "weight 'y/kernel' isn't finite: 3 of 3 values are NaN or infinite; so the model isn't published"


@pytest.mark.parametrize("settings", [{"on_nan": "stop"}, {"publish": False}], ids=str)
def test_weights_that_are_not_finite_are_no_result_under_any_policy(
    carried_out: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    outcome, log = carried_out(LARGE, compile=OVERFLOWS, epochs=1, batch_size=12, **settings)
    assert np.isfinite(of(log, events.Epoch)[0].logs["loss"])
    assert (outcome.kind, outcome.resumable) == ("failed", False)
    assert outcome.reason == NOT_FINITE
    assert not result_file(tmp_path).exists()


def test_a_run_that_goes_on_with_weights_that_are_not_finite_has_no_result(carried_out: Any, tmp_path: Path) -> None:
    outcome, _ = carried_out(LARGE, compile=OVERFLOWS, epochs=1, batch_size=12, on_nan="continue")
    assert (outcome.kind, outcome.reason, outcome.withheld) == ("trained", "", NOT_FINITE)
    assert not result_file(tmp_path).exists()


def test_an_epoch_that_ends_with_an_overflow_is_not_the_best(carried_out: Any, tmp_path: Path) -> None:
    """Its loss is the smallest, since it is that of the weights before its last step."""
    schedule = {"class_name": "PiecewiseConstantDecay", "config": {"boundaries": [1], "values": [0.01, 3e38]}}
    rising = {"optimizer": {"class_name": "SGD", "config": {"learning_rate": schedule}}, "loss": "mse"}
    options = {"compile": rising, "batch_size": 12, "publish": "best", "monitor": "loss", "keep_best_checkpoints": 2}
    outcome, log = carried_out(LARGE, **options, on_nan="continue")
    losses = [each.logs["loss"] for each in of(log, events.Epoch)]
    assert losses[2] < losses[1] < losses[0]
    assert outcome.kind == "trained"
    assert of(log, events.Log)[-1].text == "the best epoch is 2"
    assert [one.id for one in KeptCheckpoints(tmp_path / KEPT).list()] == ["e1", "e2"]
    assert np.isfinite(loss(result_file(tmp_path)))


def test_what_is_no_improvement_is_withheld(carried_out: Any) -> None:
    wild = {"optimizer": {"class_name": "SGD", "config": {"learning_rate": 1.2}}, "loss": "mse"}
    outcome, _ = carried_out(VALIDATED, publish_if_improved="loss", compile=wild, on_nan="continue")
    assert outcome.withheld.startswith("loss ")
    assert outcome.withheld.endswith(" of version 7")
    assert " is no improvement on " in outcome.withheld
    outcome, _ = carried_out(VALIDATED, publish_if_improved="loss")
    assert outcome.withheld == ""
    outcome, _ = carried_out(VALIDATED, publish_if_improved="loss", monitor_mode="max")
    assert " is no improvement on " in outcome.withheld


def test_an_evaluation_measures_and_leaves_no_model(carried_out: Any, tmp_path: Path, niceness: list[int]) -> None:
    outcome, log = carried_out(kind=EVALUATION, nice=2)
    assert (outcome.kind, outcome.epoch) == ("evaluated", 1)
    assert outcome.logs["loss"] == pytest.approx(loss(tmp_path / BASE / "model.keras"), rel=1e-5)
    assert of(log, events.Started) == [events.Started(1, 3, 12)]
    assert [(each.epoch, each.epochs, each.step, each.steps_per_epoch) for each in of(log, events.Step)][-1] == (
        1,
        1,
        3,
        3,
    )
    assert not (tmp_path / "result").exists()
    assert niceness == [2]


def test_a_run_that_was_interrupted_goes_on_to_the_same_model(
    carried_out: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = carried_out()
    expected = load_model(result_file(tmp_path)).get_weights()
    for name in ("events.jsonl", "events"):
        if (tmp_path / name).is_file():
            (tmp_path / name).unlink()
    result_file(tmp_path).unlink()

    class Interrupts(RunCheckpoints):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self.interrupt()

    with monkeypatch.context() as patch:
        patch.setattr(work, "RunCheckpoints", Interrupts)
        outcome, _ = carried_out()
    assert (outcome.kind, outcome.epoch, outcome.stopped) == ("interrupted", 1, True)
    assert list((tmp_path / CHECKPOINTS).iterdir())
    again, log = carried_out()
    assert of(log, events.Resumed)[-1].step == 1
    assert of(log, events.Resumed)[-1].epoch == 1
    assert (again.kind, again.logs) == ("trained", whole.logs)
    for one, other in zip(load_model(result_file(tmp_path)).get_weights(), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def forget(folder: Path) -> None:
    """Removes what a run leaves, but for its model and data."""
    (folder / "events.jsonl").unlink()
    result_file(folder).unlink()


def same_weights(folder: Path, expected: list[Any]) -> bool:
    found = load_model(result_file(folder)).get_weights()
    return all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_run_pauses_where_its_control_says_and_goes_on_to_the_same_model(carried_out: Any, tmp_path: Path) -> None:
    whole, _ = carried_out()
    expected = load_model(result_file(tmp_path)).get_weights()
    forget(tmp_path)
    control = ControlFile(tmp_path)
    control.set(pause=True)
    outcome, _ = carried_out()
    assert (outcome.kind, outcome.epoch, outcome.step) == ("interrupted", 1, 1)
    control.set(pause=False)
    again, log = carried_out()
    assert of(log, events.Resumed) == [events.Resumed(1, 1)]
    assert (again.logs, same_weights(tmp_path, expected)) == (whole.logs, True)


def test_a_run_that_is_stopped_ends_after_its_batch_with_the_weights_of_a_run_that_is_so_long(
    carried_out: Any, tmp_path: Path
) -> None:
    control = ControlFile(tmp_path)
    control.set(stop=True)
    outcome, log = carried_out()
    assert (outcome.kind, outcome.epoch) == ("trained", 1)
    assert of(log, events.Log)[-1].text == "stopped early, after epoch 1"
    stopped = load_model(result_file(tmp_path)).get_weights()
    forget(tmp_path)
    control.set(stop=False)
    carried_out(epochs=1, steps_per_epoch=1)
    assert same_weights(tmp_path, stopped)


def test_a_run_that_is_stopped_while_it_is_paused_ends_with_its_checkpoint(carried_out: Any, tmp_path: Path) -> None:
    carried_out(epochs=1, steps_per_epoch=1)
    expected = load_model(result_file(tmp_path)).get_weights()
    forget(tmp_path)
    control = ControlFile(tmp_path)
    control.set(pause=True)
    carried_out()
    control.set(pause=False, stop=True)
    outcome, log = carried_out()
    assert (outcome.kind, same_weights(tmp_path, expected)) == ("trained", True)
    assert of(log, events.Log)[-1].text == "stopped early, after step 1 of epoch 1"


@pytest.mark.parametrize("options", [{}, {"publish_if_improved": "mae"}, {"monitor": "val_mae"}])
def test_a_result_is_compared_with_a_version_that_came_meanwhile(
    carried_out: Any, tmp_path: Path, options: dict[str, str]
) -> None:
    log = "mae" if options else "loss"
    trained, _ = carried_out(VALIDATED, **options)
    shutil.copytree(tmp_path / BASE, tmp_path / RIVAL)  # an untrained model
    replace(trained, compared=9, comparisons=2).write(tmp_path / RIVAL)
    outcome, _ = carried_out(VALIDATED, **options)
    assert outcome == replace(trained, compared=9, comparisons=2)
    shutil.copy(result_file(tmp_path), tmp_path / RIVAL / "model.keras")
    outcome, _ = carried_out(VALIDATED, **options)
    assert outcome.withheld.startswith(log)
    assert outcome.withheld.endswith("of version 9")
    (tmp_path / RIVAL / "model.keras").unlink()
    x = Input((5,), name="x")
    Model(x, layers.Dense(1, name="y")(x)).save(tmp_path / RIVAL / "model.keras")
    outcome, _ = carried_out(VALIDATED, **options)
    assert (outcome.kind, outcome.logs) == ("trained", trained.logs)
    assert outcome.withheld.startswith("version 9 was published meanwhile, and can't be compared with the result: ")


def test_the_comparison_reads_datasets_where_training_did(carried_out: Any, tmp_path: Path) -> None:
    (tmp_path / "datasets" / "d").mkdir(parents=True)
    file = DataFile(str(tmp_path / "datasets"), "d/content.npz", "d")
    trained, _ = carried_out(VALIDATED, file)
    shutil.copytree(tmp_path / BASE, tmp_path / RIVAL)
    replace(trained, compared=9, comparisons=2).write(tmp_path / RIVAL)
    outcome, _ = carried_out(VALIDATED, file)
    assert outcome == replace(trained, compared=9, comparisons=2)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("PytorchStreamWriter failed writing file: No space left on device"),
        caused(RuntimeError("unexpected pos 64 vs 0"), OSError(errno.ENOSPC, "")),
    ],
)
def test_a_full_disk_is_told_from_other_failures(
    carried_out: Any, tmp_path: Path, monkeypatch: Any, error: Any
) -> None:
    def full(self: RunCheckpoints, state: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoints, "write", full)
        outcome, _ = carried_out(checkpoint_seconds=0)
    assert (outcome.kind, outcome.out_of_space, outcome.resumable) == ("failed", True, True)
    assert outcome.reason == "there is no space left on the server's disk"


def test_a_process_that_can_not_write_its_outcome_says_so_by_its_status(
    carried_out: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried_out()
    monkeypatch.setattr(child.RunResult, "write", lambda result, folder: os.close(os.open("/dev/full/x", os.O_WRONLY)))
    with pytest.raises(NotADirectoryError):
        child.main(tmp_path)

    def full(result: RunResult, folder: Path) -> None:
        with open("/dev/full", "w") as file:
            file.write("x")

    monkeypatch.setattr(child.RunResult, "write", full)
    assert child.main(tmp_path) == NO_SPACE


@pytest.mark.parametrize(
    ("raised", "kind", "reason"),
    [
        (child.StopRequest(), "cancelled", ""),
        (child.Interruption(), "interrupted", ""),
        (MemoryError(), "failed", "out of memory"),
        (OSError(5, "Input/output error"), "failed", "can't be read or written: Input/output error"),
    ],
)
def test_each_way_to_end_is_an_outcome(
    carried_out: Any, monkeypatch: pytest.MonkeyPatch, raised: BaseException, kind: str, reason: str
) -> None:
    class Ends(Reporter):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            super().on_epoch_end(epoch, logs)
            if epoch == 1:
                raise raised

    monkeypatch.setattr(work, "Reporter", Ends)
    outcome, _ = carried_out()
    assert (outcome.kind, outcome.epoch) == (kind, 2)
    assert reason in outcome.reason


@pytest.fixture(name="clock")
def _clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    replace_time(monkeypatch, reporting, monotonic=lambda: now[0])
    return now


@pytest.mark.parametrize("kind", [Reporter, EvaluationReporter])
def test_steps_are_told_often_at_first_and_then_less(kind: type[Reporter], clock: list[float], tmp_path: Path) -> None:
    reporter = kind(EventWriter(tmp_path), Position())
    reporter.set_params({"epochs": 2, "steps": 100, "rows": 400, "resumed": False})
    evaluates = kind is EvaluationReporter
    begin, end = (
        (reporter.on_test_batch_begin, reporter.on_test_batch_end)
        if evaluates
        else (reporter.on_train_batch_begin, reporter.on_train_batch_end)
    )

    def step(number: int, seconds: float) -> bool:
        clock[0] += seconds
        begin(number - 1)
        end(number - 1, {"loss": 0.5})
        told = EventLog.read(tmp_path).newest(events.Step)
        return told is not None and told.step == number

    if evaluates:
        reporter.on_test_begin()
    else:
        reporter.on_train_begin()
        reporter.on_epoch_begin(1)
    assert step(1, 0.0)
    assert not step(2, reporting.STEP_SECONDS * 0.9)
    assert step(3, reporting.STEP_SECONDS * 0.2)
    assert step(4, reporting.LIVELY_SECONDS)
    assert not step(5, reporting.LATER_STEP_SECONDS * 0.9)
    assert step(6, reporting.LATER_STEP_SECONDS * 0.2)
    assert step(100, 0.0), "the last one is always told"
    place = (1, 1) if evaluates else (2, 2)
    assert of(EventLog.read(tmp_path), events.Step)[-1] == events.Step(*place, 100, 100, {"loss": 0.5})


def test_an_epoch_says_how_long_it_took_by_the_clock_of_the_run(clock: list[float], tmp_path: Path) -> None:
    """Whenever the event is read: here both are at the end."""
    reporter = Reporter(EventWriter(tmp_path), Position())
    reporter.set_params({"epochs": 2, "steps": 1, "rows": 4, "resumed": False})
    reporter.on_train_begin()
    for epoch, seconds in enumerate((0.038, 2.5)):
        clock[0] += 10  # between two epochs, as for a checkpoint
        reporter.on_epoch_begin(epoch)
        clock[0] += seconds
        reporter.on_epoch_end(epoch, {"loss": 0.5})
    assert [epoch.seconds for epoch in of(EventLog.read(tmp_path), events.Epoch)] == pytest.approx([0.038, 2.5])


def test_outputs_of_frozen_layers_are_kept_in_the_runs_folder(
    carried_out: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen_base(tmp_path)
    with monkeypatch.context() as without_room:
        without_room.setattr(work, "cache_room", lambda *_: 0)
        plain, log = carried_out(freeze=("trunk",), shuffle=False)
    assert of(log, events.Log)[-1].text.endswith("they take 192 bytes, expected at most 0")
    kept, log = carried_out(freeze=("trunk",), shuffle=False)
    assert kept.logs == plain.logs
    lines = [each.text for each in of(log, events.Log)]
    assert lines[-1] == "outputs of 1 frozen layers are computed once and kept: 192 bytes"
    assert sorted(file.name for file in (tmp_path / CACHE).iterdir()) == ["training.0", "training.json"]


def test_a_budget_of_disk_limits_what_is_kept(carried_out: Any, tmp_path: Path) -> None:
    frozen_base(tmp_path)
    _, log = carried_out(freeze=("trunk",), budget=Budget(max_disk_bytes=1000))
    assert of(log, events.Log)[-1].text.endswith("they take 192 bytes, expected at most 0")


LORA = {"rank": 2, "alpha": 0.5, "layers": ["trunk"]}


def test_lora_weights_are_trained_and_published_in_the_kernel(carried_out: Any, tmp_path: Path) -> None:
    frozen_base(tmp_path)
    base = load_model(tmp_path / BASE / "model.keras")
    for publish in (True, "best"):
        outcome, _ = carried_out(freeze=("*",), lora=LORA, publish=publish)
        assert (outcome.kind, outcome.reason) == ("trained", "")
        result = load_model(result_file(tmp_path))
        assert [weight.path for weight in result.weights] == [weight.path for weight in base.weights]
        assert "lora_rank" not in result.get_layer("trunk").get_config()
        assert not result.get_layer("trunk").trainable
        change = result.get_weights()[0] - base.get_weights()[0]
        assert np.linalg.matrix_rank(change, tol=1e-6) in (1, 2)
        np.testing.assert_array_equal(result.get_weights()[2], base.get_weights()[2])
        assert loss(result_file(tmp_path)) < loss(tmp_path / BASE / "model.keras")
        for folder in (BEST, CHECKPOINTS):
            shutil.rmtree(tmp_path / folder, ignore_errors=True)


def test_a_run_in_bfloat16_publishes_a_model_of_32_bits(
    carried_out: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text("flags : avx512_bf16")
    monkeypatch.setattr(precision, "CPU_INFO", tmp_path / "cpuinfo")
    exact, _ = carried_out()
    half, log = carried_out(precision="auto")
    assert of(log, events.Log)[-1].text == "from version 7, seed 5, threads 1, precision mixed_bfloat16"
    assert half.logs["loss"] != exact.logs["loss"]
    assert half.logs["loss"] == pytest.approx(exact.logs["loss"], rel=0.05)
    result = load_model(result_file(tmp_path))
    assert {layer.dtype_policy.name for layer in result.layers} == {"float32"}
    (tmp_path / "cpuinfo").write_text("flags : avx2")
    again, log = carried_out(precision="auto")
    assert again.logs == exact.logs
    assert of(log, events.Log)[-1].text.endswith("precision float32")
