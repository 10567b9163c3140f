"""The commands about training: `train`, `runs`, `watch` and `cancel`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from layerserve.cli.array_files import read_arrays
from layerserve.cli.live_progress import show_run
from layerserve.cli.options import Address, Json, Label, ModelName, RunId, Version, connect
from layerserve.cli.output import number_text, plain, print_json, print_line, print_table
from layerserve.client import TrainingRun
from layerserve.connection import DEFAULT_ADDRESS
from layerserve.errors import InvalidArgument, TrainingCancelled
from layerserve.events import RunCancelled, TrainingEvent
from layerserve.run_info import RunInfo

_ARRAYS = "[NAME=]PATH"


def train(
    context: typer.Context,
    model: ModelName,
    x: Annotated[
        list[str],
        typer.Option("--x", metavar=_ARRAYS, help="Input data: .npy, .npz (all arrays, or PATH:KEY) or .json."),
    ],
    y: Annotated[list[str], typer.Option("--y", metavar=_ARRAYS, help="Targets, in the same forms.")],
    epochs: Annotated[int, typer.Option("--epochs", "-e", min=1, help="Passes over the data.")] = 1,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Rows in a step.")] = 32,
    sample_weight: Annotated[
        list[str] | None, typer.Option(metavar=_ARRAYS, help="Weight of each row in the loss.")
    ] = None,
    validation_x: Annotated[list[str] | None, typer.Option(metavar=_ARRAYS, help="Validation inputs.")] = None,
    validation_y: Annotated[list[str] | None, typer.Option(metavar=_ARRAYS, help="Validation targets.")] = None,
    validation_split: Annotated[
        float, typer.Option(help="Share of the last rows to validate with instead, from 0 to 1.")
    ] = 0.0,
    class_weight: Annotated[
        str | None, typer.Option(metavar="JSON", help='Weight of each class: {"0": 1.0, "1": 5.0}.')
    ] = None,
    shuffle: Annotated[bool, typer.Option(help="Put rows in a new order for each epoch.")] = True,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.  [default: drawn]")] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="A name, or JSON as Keras serialises it.  [default: the file's]")
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="A name, or JSON: an object, list or dict by output.  [default: the file's]")
    ] = None,
    loss_weights: Annotated[str | None, typer.Option(metavar="JSON", help="Weight of each output's loss.")] = None,
    metrics: Annotated[
        list[str] | None, typer.Option("--metric", help="A metric: a name, or JSON. May be given several times.")
    ] = None,
    publish: Annotated[bool, typer.Option(help="Make the result a new version of the model.")] = True,
    publish_label: Annotated[str | None, typer.Option(help="Label to give to the new version.")] = None,
    description: Annotated[str, typer.Option(help="Text to keep with the run.")] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Return when the data is sent; print the run's id.")] = False,
    address: Address = DEFAULT_ADDRESS,
    version: Version = None,
    label: Label = None,
    as_json: Json = False,
) -> None:
    """Train a model and publish the result.

    Ctrl-C stops watching, not the run; `layerserve watch` takes it up again, `layerserve cancel` stops it.

    JSON: one object a line, {"event", "run_id", "sequence", "time", ...}, as they happen; "event" is accepted, queued,
    started, step, epoch, log, finished, failed or cancelled. With --detach: {"run"}.
    """
    if bool(validation_x) != bool(validation_y):
        raise InvalidArgument("validation: got one of --validation-x and --validation-y, expected both or none")
    with connect(context, address) as client:
        run = client.train(
            model,
            read_arrays(x),
            read_arrays(y),
            epochs=epochs,
            batch_size=batch_size,
            sample_weight=read_arrays(sample_weight) if sample_weight else None,
            validation_data=(read_arrays(validation_x), read_arrays(validation_y or ())) if validation_x else None,
            validation_split=validation_split,
            class_weight=_json("--class-weight", class_weight),
            shuffle=shuffle,
            seed=seed,
            optimizer=_name_or_json("--optimizer", optimizer),
            loss=_name_or_json("--loss", loss),
            loss_weights=_json("--loss-weights", loss_weights),
            metrics=_metrics(metrics),
            publish=publish,
            publish_label=publish_label,
            description=description,
            version=version,
            label=label,
        )
        if not detach:
            _follow(run, as_json)
        elif as_json:
            print_json({"run": run.id})
        else:
            print_line(run.id)


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


def _follow(run: TrainingRun, as_json: bool) -> None:
    """Show a run to its end. Raises TrainingFailed and TrainingCancelled as `wait` does."""
    try:
        cancelled = _print_events(run) if as_json else show_run(run)
    except KeyboardInterrupt:
        if not as_json:
            print(
                f"the run goes on; watch it with: layerserve watch {run.id}; stop it with: layerserve cancel {run.id}",
                file=sys.stderr,
            )
        raise
    if cancelled is not None:
        raise TrainingCancelled(run.id, cancelled.epoch)
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
    print_table(f"{run.model}, run {run.id}", ("#Epoch", *(f"#{name}" for name in history)), rows)
    if run.version is not None:
        print_line(f"published {run.model} version {run.version}")


def runs(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Only runs of this model.")] = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """List the training runs, newest first.

    JSON: {"runs": [{"id", "state", "model", "base_version", "version", "reason", "epochs_done", "epochs", "steps_done",
    "steps_per_epoch", "logs", "created_time", "started_time", "ended_time", "seed", "description"}]}.
    """
    with connect(context, address) as client:
        found = client.runs(model)
    if as_json:
        print_json({"runs": found})
    elif not found:
        print_line("no runs")
    else:
        columns = ("Run", "Model", "#From", "State", "#Epochs", "Logs", "#Published", "Created", "Description")
        print_table(f"Training runs on {address}", columns, map(_run_row, found))


def _run_row(info: RunInfo) -> tuple[str, ...]:
    return (
        info.id,
        info.model,
        str(info.base_version),
        f"{info.state}: {info.reason}" if info.reason else info.state,
        f"{info.epochs_done}/{info.epochs}",
        " ".join(f"{name}={number_text(value)}" for name, value in info.logs.items()),
        "" if info.version is None else str(info.version),
        info.created_time.astimezone().strftime("%Y-%m-%d %H:%M:%S") if info.created_time else "",
        info.description,
    )


def watch(context: typer.Context, run: RunId, address: Address = DEFAULT_ADDRESS, as_json: Json = False) -> None:
    """Show a training run from its beginning to its end. JSON: as that of `train`."""
    with connect(context, address) as client:
        _follow(client.run(run), as_json)


def cancel(context: typer.Context, run: RunId, address: Address = DEFAULT_ADDRESS, as_json: Json = False) -> None:
    """Stop a training run; nothing is published. JSON: the run, as in `runs`."""
    with connect(context, address) as client:
        info = client.run(run).cancel()
    if as_json:
        print_json(info)
    elif info.state in ("queued", "running"):
        print_line(f"run {info.id} of {info.model} is being stopped")
    else:
        print_line(f"run {info.id} of {info.model} is {info.state}")
