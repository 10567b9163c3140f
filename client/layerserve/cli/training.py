"""The commands `train` and `evaluate`, and `watch` of `run`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer

from layerserve import Client, TrainingRun
from layerserve.cli.data_arguments import EVALUATION_DATA, TRAINING_DATA, read_data
from layerserve.cli.flags import flags, given_flags
from layerserve.cli.history_plot import check_plot, print_plot
from layerserve.cli.live_progress import show_run
from layerserve.cli.model_specs import ModelSpecs
from layerserve.cli.options import Label, ModelName, RunId, Version
from layerserve.cli.output import plain, print_line, print_table
from layerserve.cli.server_commands import Result, on_server
from layerserve.cli.slice_commands import all_modes, mode_of
from layerserve.cli.whole_ids import find_run, with_whole_ids
from layerserve.errors import TrainingCancelled, TrainingFailed
from layerserve.training.events import EVENT_NAMES, RunCancelled, TrainingEvent
from layerserve.training.options.arguments import EVALUATE, TRAIN
from layerserve.training.options.keywords import EvaluateKeywords, TrainKeywords
from layerserve.training.sample_losses import SampleLosses
from layerserve.values.tables import Table, number_text

Losses = Annotated[
    Path | None, typer.Option("--losses", metavar="FILE.npz", help="Save the loss of each row to this file.")
]
Worst = Annotated[int, typer.Option(metavar="COUNT", min=0, help="Show so many rows with the highest losses.")]
Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Plot the history to this file: .png, .svg or .pdf. Requires matplotlib."),
]


@on_server
@flags(TRAIN, TRAINING_DATA, all_modes())
def train(
    client: Client,
    context: typer.Context,
    model: ModelName,
    version: Version = None,
    label: Label = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when the data is sent; print the run's id.")] = False,
    plot: Plot = None,
    as_json: bool = False,
    **options: Any,
) -> Result | None:
    """Train a model and publish the result.

    Ctrl-C stops watching, not the run: `layerserve run watch` watches it again, `layerserve run cancel` stops it,
    `layerserve run pause` pauses it, `layerserve run resume` resumes one that was paused or interrupted.

    JSON: one object a line, {"event", "run_id", "sequence", "time", ...}, as they happen; "event" is accepted, queued,
    started, step, epoch, checkpoint, log, paused, resumed, finished, failed or cancelled. With --detach: {"run"}.
    With --dry-run: {"model", "base_version", "problems", "rows", "steps_per_epoch", "steps", "validation_steps",
    "data_bytes", "trainable_parameters", "non_trainable_parameters", "memory_bytes", "disk_bytes", "seconds",
    "wait_seconds", "ahead", "publication"}.
    """
    check_plot(plot)
    given = given_flags(context, TRAIN, options)
    mode = mode_of(options)
    start: Callable[..., Any] = client.train if mode is None else mode.start(client, "train")
    run = start(
        model,
        **read_data(client, ModelSpecs(client, model, version, label), options),
        version=version,
        label=label,
        **cast(TrainKeywords, with_whole_ids(client, given)),
    )
    if mode is not None:
        return mode.result(run)
    if detach:
        return Result({"run": run.id}, run.id)
    _follow(run, as_json, plot)
    return None


@on_server
@flags(EVALUATE, EVALUATION_DATA, all_modes())
def evaluate(
    client: Client,
    context: typer.Context,
    model: ModelName,
    version: Version = None,
    label: Label = None,
    losses: Losses = None,
    worst: Worst = 0,
    **options: Any,
) -> Result:
    """Measure the loss and metrics of a model on data.

    JSON: an object of numbers by log. With --worst: {"run", "logs", "worst": [{"row", log: loss}]}. With --dry-run: as
    for `train`.
    """
    mode = mode_of(options)
    start: Callable[..., Any] = client.evaluate
    if mode is not None:
        start = mode.start(client, "evaluate")
    elif worst or losses is not None:
        start = client.sample_losses
    found = start(
        model,
        **read_data(client, ModelSpecs(client, model, version, label), options),
        version=version,
        label=label,
        **cast(EvaluateKeywords, with_whole_ids(client, given_flags(context, EVALUATE, options))),
    )
    if mode is not None:
        return mode.result(found)
    if losses is not None:
        np.savez(losses, **cast(Any, found.losses))
    if worst:
        return _worst(found, worst)
    logs = found.logs if isinstance(found, SampleLosses) else found
    return Result(logs, Table(model, ("Log", "#Value"), [(name, number_text(value)) for name, value in logs.items()]))


def _worst(found: SampleLosses, count: int) -> Result:
    """Returns the rows with the highest losses."""
    rows = found.worst(count).tolist()
    worst = [{"row": row, **{name: float(values[row]) for name, values in found.losses.items()}} for row in rows]
    cells = [(str(row), *(number_text(float(values[row])) for values in found.losses.values())) for row in rows]
    return Result(
        {"run": found.run_id, "logs": found.logs, "worst": worst},
        Table("Highest losses", ("#Row", *(f"#{name}" for name in found.losses)), cells),
    )


def _follow(run: TrainingRun, as_json: bool, plot: Path | None = None, done: int = 0) -> None:
    """Shows a run's progress and history. Raises as `follow` does."""
    follow(run, as_json, lambda run: show_run(run, done))
    if plot is not None:
        run.plot(plot)
    if not as_json:
        _print_history(run)


def follow(run: TrainingRun, as_json: bool, show: Callable[[TrainingRun], RunCancelled | None]) -> None:
    """Shows a run's progress to its end by `show`, which returns the last event if the run was cancelled.

    Raises TrainingFailed and TrainingCancelled as `wait` does.
    """
    try:
        cancelled = _print_events(run) if as_json else show(run)
    except KeyboardInterrupt:
        if not as_json:
            print(
                f"the run continues; watch it with: layerserve run watch {run.id}; "
                f"cancel it with: layerserve run cancel {run.id}",
                file=sys.stderr,
            )
        raise
    except TrainingFailed as error:
        if error.resumable and not as_json:
            print(f"the run was interrupted; resume it with: layerserve run resume {run.id}", file=sys.stderr)
        raise
    if cancelled is not None:
        raise TrainingCancelled(run.id, cancelled.epoch)


def _print_events(run: TrainingRun) -> RunCancelled | None:
    event: TrainingEvent | None = None
    for event in run:
        print(json.dumps({"event": EVENT_NAMES[type(event)], **plain(event)}, allow_nan=False), flush=True)
    return event if isinstance(event, RunCancelled) else None


def _print_history(run: TrainingRun) -> None:
    print_table(run.table())
    print_plot(run.history)
    if run.version is not None:
        print_line(f"published {run.model} version {run.version}" + (f"; {run.kept_back}" if run.kept_back else ""))
    elif run.withheld:
        print_line(f"not published: {run.withheld}")


@on_server
def watch(client: Client, run: RunId, plot: Plot = None, as_json: bool = False) -> None:
    """Show the progress of a training run until it ends. JSON: as for `layerserve train`."""
    check_plot(plot)
    watched = find_run(client, run)
    # The table at the end has the epochs before.
    _follow(watched, as_json, plot, done=0 if as_json else watched.info().epochs_done)
