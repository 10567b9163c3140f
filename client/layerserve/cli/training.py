"""The commands about training: `train`, `evaluate`, `runs`, `watch`, `cancel`, `resume` and `delete`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from layerserve.cli.array_files import read_arrays
from layerserve.cli.history_plot import check_plot, print_plot, save_plot
from layerserve.cli.live_progress import show_run
from layerserve.cli.options import Address, Format, Json, Label, ModelName, RunId, Version, connect
from layerserve.cli.output import number_text, plain, print_json, print_line, print_table
from layerserve.client import TrainingRun
from layerserve.connection import DEFAULT_ADDRESS
from layerserve.errors import InvalidArgument, TrainingCancelled, TrainingFailed
from layerserve.events import RunCancelled, TrainingEvent
from layerserve.run_info import RunInfo
from layerserve.tables import Table

_ARRAYS = "[NAME=]PATH"
_SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

Arrays = Annotated[
    list[str],
    typer.Option(
        "--x",
        metavar=_ARRAYS,
        help="Input data: .npy, .npz (all arrays, or PATH:KEY) or .json; server:PATH[:KEY] is a file of the server.",
    ),
]
Targets = Annotated[list[str], typer.Option("--y", metavar=_ARRAYS, help="Targets, in the same forms.")]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Rows in a step.")]
SampleWeight = Annotated[list[str] | None, typer.Option(metavar=_ARRAYS, help="Weight of each row in the loss.")]
Loss = Annotated[
    str | None, typer.Option(help="A name, or JSON: an object, list or dict by output.  [default: the file's]")
]
LossWeights = Annotated[str | None, typer.Option(metavar="JSON", help="Weight of each output's loss.")]
Metrics = Annotated[
    list[str] | None, typer.Option("--metric", help="A metric: a name, or JSON. May be given several times.")
]
Description = Annotated[str, typer.Option(help="Text to keep with the run.")]
Plot = Annotated[
    Path | None, typer.Option(metavar="FILE.png", help="Plot the history to this file. Requires layerserve[plot].")
]


def train(
    context: typer.Context,
    model: ModelName,
    x: Arrays,
    y: Targets,
    epochs: Annotated[int, typer.Option("--epochs", "-e", min=1, help="Passes over the data.")] = 1,
    batch_size: BatchSize = 32,
    steps_per_epoch: Annotated[
        int | None, typer.Option(min=1, help="Steps in an epoch.  [default: all of the data]")
    ] = None,
    sample_weight: SampleWeight = None,
    validation_x: Annotated[list[str] | None, typer.Option(metavar=_ARRAYS, help="Validation inputs.")] = None,
    validation_y: Annotated[list[str] | None, typer.Option(metavar=_ARRAYS, help="Validation targets.")] = None,
    validation_split: Annotated[
        float, typer.Option(help="Share of the last rows to validate with instead, from 0 to 1.")
    ] = 0.0,
    validation_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows in a step of validation.  [default: those of training]")
    ] = None,
    class_weight: Annotated[
        str | None, typer.Option(metavar="JSON", help='Weight of each class: {"0": 1.0, "1": 5.0}.')
    ] = None,
    shuffle: Annotated[bool, typer.Option(help="Put rows in a new order for each epoch.")] = True,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.  [default: drawn]")] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="A name, or JSON as Keras serialises it.  [default: the file's]")
    ] = None,
    loss: Loss = None,
    loss_weights: LossWeights = None,
    metrics: Metrics = None,
    freeze: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Layers not to train, such as 'block1_*'. Repeatable.")
    ] = None,
    unfreeze: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Layers to train, after --freeze. Repeatable.")
    ] = None,
    callbacks: Annotated[
        list[str] | None, typer.Option("--callback", help="A callback: a name, or JSON. May be given several times.")
    ] = None,
    publish: Annotated[bool, typer.Option(help="Make the result a new version of the model.")] = True,
    best: Annotated[bool, typer.Option("--best", help="Publish the best epoch's weights, not the last ones.")] = False,
    monitor: Annotated[
        str | None, typer.Option(metavar="LOG", help="What makes an epoch the best.  [default: val_loss, or loss]")
    ] = None,
    monitor_mode: Annotated[
        str | None, typer.Option(metavar="[min|max]", help="Whether small or large is better.  [default: by the log]")
    ] = None,
    if_improved: Annotated[
        str | None,
        typer.Option(metavar="LOG", help="Publish only what beats the version it starts from in this log."),
    ] = None,
    publish_label: Annotated[str | None, typer.Option(help="Label to give to the new version.")] = None,
    format: Format = None,
    priority: Annotated[int, typer.Option(help="Runs of a higher one leave the queue first.")] = 0,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that train together, if the server allows several.")
    ] = 1,
    on_nan: Annotated[
        str, typer.Option(metavar="[stop|continue]", help="What happens when a loss is NaN or infinite.")
    ] = "stop",
    checkpoint_seconds: Annotated[
        float | None, typer.Option(min=0, help="Seconds between two checkpoints.  [default: the server's]")
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(min=0, help="Seconds that the run may train.")] = None,
    max_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory that the run may use: bytes, or such as 500M or 2G.")
    ] = None,
    max_disk: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What the run's folder may take, in the same form.")
    ] = None,
    description: Description = "",
    detach: Annotated[bool, typer.Option("--detach", help="Return when the data is sent; print the run's id.")] = False,
    plot: Plot = None,
    address: Address = DEFAULT_ADDRESS,
    version: Version = None,
    label: Label = None,
    as_json: Json = False,
) -> None:
    """Train a model and publish the result.

    Ctrl-C stops watching, not the run; `layerserve watch` takes it up again, `layerserve cancel` stops it, `layerserve
    resume` goes on with one that was interrupted.

    JSON: one object a line, {"event", "run_id", "sequence", "time", ...}, as they happen; "event" is accepted, queued,
    started, step, epoch, log, resumed, finished, failed or cancelled. With --detach: {"run"}.
    """
    if bool(validation_x) != bool(validation_y):
        raise InvalidArgument("validation: got one of --validation-x and --validation-y, expected both or none")
    if best and not publish:
        raise InvalidArgument("--best: got it with --no-publish, expected one of the two")
    check_plot(plot)
    with connect(context, address) as client:
        run = client.train(
            model,
            read_arrays(x),
            read_arrays(y),
            epochs=epochs,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            sample_weight=read_arrays(sample_weight) if sample_weight else None,
            validation_data=(read_arrays(validation_x), read_arrays(validation_y or ())) if validation_x else None,
            validation_split=validation_split,
            validation_batch_size=validation_batch_size,
            class_weight=_json("--class-weight", class_weight),
            shuffle=shuffle,
            seed=seed,
            optimizer=_name_or_json("--optimizer", optimizer),
            loss=_name_or_json("--loss", loss),
            loss_weights=_json("--loss-weights", loss_weights),
            metrics=_metrics(metrics),
            freeze=freeze or (),
            unfreeze=unfreeze or (),
            callbacks=[_name_or_json("--callback", text) for text in callbacks] if callbacks else None,
            publish="best" if best else publish,
            monitor=monitor,
            monitor_mode=monitor_mode,
            publish_if_improved=if_improved,
            publish_label=publish_label,
            format=format,
            priority=priority,
            workers=workers,
            on_nan=on_nan,
            checkpoint_seconds=checkpoint_seconds,
            max_seconds=max_seconds,
            max_memory_bytes=_bytes("--max-memory", max_memory),
            max_disk_bytes=_bytes("--max-disk", max_disk),
            description=description,
            version=version,
            label=label,
        )
        if not detach:
            _follow(run, as_json, plot)
        elif as_json:
            print_json({"run": run.id})
        else:
            print_line(run.id)


def evaluate(
    context: typer.Context,
    model: ModelName,
    x: Arrays,
    y: Targets,
    batch_size: BatchSize = 32,
    sample_weight: SampleWeight = None,
    loss: Loss = None,
    loss_weights: LossWeights = None,
    metrics: Metrics = None,
    description: Description = "",
    address: Address = DEFAULT_ADDRESS,
    version: Version = None,
    label: Label = None,
    as_json: Json = False,
) -> None:
    """Measure the loss and metrics of a model on data. JSON: an object of numbers by log."""
    with connect(context, address) as client:
        logs = client.evaluate(
            model,
            read_arrays(x),
            read_arrays(y),
            batch_size=batch_size,
            sample_weight=read_arrays(sample_weight) if sample_weight else None,
            loss=_name_or_json("--loss", loss),
            loss_weights=_json("--loss-weights", loss_weights),
            metrics=_metrics(metrics),
            description=description,
            version=version,
            label=label,
        )
    if as_json:
        print_json(logs)
    else:
        print_table(Table(model, ("Log", "#Value"), [(name, number_text(value)) for name, value in logs.items()]))


def _bytes(option: str, text: str | None) -> int | None:
    """2G -> 2147483648."""
    if text is None:
        return None
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    try:
        return int(float(number) * _SIZES[unit])
    except (ValueError, KeyError, OverflowError):
        raise InvalidArgument(f"{option}: got {text!r}, expected bytes, or a number with K, M, G or T") from None


def _name_or_json(option: str, text: str | None) -> Any:
    return _json(option, text) if text is not None and text.lstrip().startswith(("{", "[")) else text


def _json(option: str, text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"{option}: got {text!r}, expected JSON ({error})") from None


def _metrics(texts: Sequence[str] | None) -> Any:
    """Names as a list; JSON that stands alone as what it says, such as a dict by output."""
    if not texts:
        return None
    values = [_name_or_json("--metric", text) for text in texts]
    return values[0] if len(values) == 1 and isinstance(values[0], (list, dict)) else values


def _follow(run: TrainingRun, as_json: bool, plot: Path | None = None) -> None:
    """Show a run to its end. Raises TrainingFailed and TrainingCancelled as `wait` does."""
    try:
        cancelled = _print_events(run) if as_json else show_run(run)
    except KeyboardInterrupt:
        if not as_json:
            print(
                f"the run continues; watch it with: layerserve watch {run.id}; "
                f"cancel it with: layerserve cancel {run.id}",
                file=sys.stderr,
            )
        raise
    except TrainingFailed as error:
        if error.resumable and not as_json:
            print(f"the run was interrupted; resume it with: layerserve resume {run.id}", file=sys.stderr)
        raise
    if cancelled is not None:
        raise TrainingCancelled(run.id, cancelled.epoch)
    if plot is not None:
        save_plot(plot, f"{run.model}, run {run.id}", run.history)
    if not as_json:
        _print_history(run)


def _print_events(run: TrainingRun) -> RunCancelled | None:
    event: TrainingEvent | None = None
    for event in run:
        print(json.dumps({"event": _event_word(event), **plain(event)}, allow_nan=False), flush=True)
    return event if isinstance(event, RunCancelled) else None


def _event_word(event: TrainingEvent) -> str:
    """RunAccepted -> accepted, StepProgress -> step, EpochEnd -> epoch, LogLine -> log: the words of the protocol."""
    name = type(event).__name__
    return {"StepProgress": "step", "EpochEnd": "epoch", "LogLine": "log"}.get(name, name.removeprefix("Run").lower())


def _print_history(run: TrainingRun) -> None:
    history = run.history
    rows = [
        (str(epoch + 1), *(number_text(values[epoch]) if epoch < len(values) else "" for values in history.values()))
        for epoch in range(max(map(len, history.values()), default=0))
    ]
    print_table(Table(f"{run.model}, run {run.id}", ("#Epoch", *(f"#{name}" for name in history)), rows))
    print_plot(history)
    if run.version is not None:
        print_line(f"published {run.model} version {run.version}")
    elif run.withheld:
        print_line(f"not published: {run.withheld}")


def runs(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Only show runs of this model.  [default: all models]")
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """List training runs and evaluations, newest first.

    JSON: {"runs": [{"id", "state", "model", "base_version", "version", "reason", "epochs_done", "epochs", "steps_done",
    "steps_per_epoch", "logs", "created_time", "started_time", "ended_time", "seed", "description", "kind",
    "resumable", "resumed", "priority", "workers", "owner"}]}.
    """
    with connect(context, address) as client:
        found = client.runs(model)
    if as_json:
        print_json({"runs": found})
    elif not found:
        print_line("no runs")
    else:
        columns = ("Run", "Kind", "Model", "#From", "State", "#Epochs", "Logs", "#Published", "Created", "Description")
        print_table(Table(f"Training runs on {address}", columns, [_run_row(info) for info in found]))


def _run_row(info: RunInfo) -> tuple[str, ...]:
    return (
        info.id,
        info.kind,
        info.model,
        str(info.base_version),
        _state_text(info),
        # An evaluation goes through the data once, and has no epochs.
        "" if info.kind == "evaluation" else f"{info.epochs_done}/{info.epochs}",
        " ".join(f"{name}={number_text(value)}" for name, value in info.logs.items()),
        "" if info.version is None else str(info.version),
        info.created_time.astimezone().strftime("%Y-%m-%d %H:%M:%S") if info.created_time else "",
        info.description,
    )


def _state_text(info: RunInfo) -> str:
    state = "interrupted" if info.resumable else info.state
    if info.owner:
        return f"{state} ({info.owner})"
    return f"{state}: {info.reason}" if info.reason else state


def watch(
    context: typer.Context,
    run: RunId,
    plot: Plot = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """Show the progress of a training run until it ends. JSON: as for `train`."""
    check_plot(plot)
    with connect(context, address) as client:
        _follow(client.run(run), as_json, plot)


def resume(
    context: typer.Context,
    run: RunId,
    detach: Annotated[bool, typer.Option("--detach", help="Return without showing the progress.")] = False,
    plot: Plot = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """Resume an interrupted training run from its latest checkpoint. JSON: as for `train`."""
    check_plot(plot)
    with connect(context, address) as client:
        resumed = client.run(run).resume()
        if detach:
            print_json({"run": run}) if as_json else print_line(run)
        else:
            _follow(resumed, as_json, plot)


def delete(context: typer.Context, run: RunId, address: Address = DEFAULT_ADDRESS, as_json: Json = False) -> None:
    """Delete an ended training run. The version that it published is kept. JSON: {"deleted"}."""
    with connect(context, address) as client:
        client.run(run).delete()
    if as_json:
        print_json({"deleted": run})
    else:
        print_line(f"run {run} is deleted")


def cancel(context: typer.Context, run: RunId, address: Address = DEFAULT_ADDRESS, as_json: Json = False) -> None:
    """Cancel a training run. Nothing is published. JSON: the run, as for `runs`."""
    with connect(context, address) as client:
        info = client.run(run).cancel()
    if as_json:
        print_json(info)
    elif info.state in ("queued", "running"):
        print_line(f"run {info.id} of {info.model} is being cancelled")
    else:
        print_line(f"run {info.id} of {info.model} is {info.state}")
