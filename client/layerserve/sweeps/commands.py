"""The commands `sweep start`, `list`, `show`, `plot`, `cancel` and `delete`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from layerserve import Client
from layerserve.cli.data_arguments import EVALUATION_DATA, read_data
from layerserve.cli.flags import flags, read_flags
from layerserve.cli.groups import new_group
from layerserve.cli.history_plot import check_plot
from layerserve.cli.model_specs import ModelSpecs
from layerserve.cli.options import Label, ModelName, Version
from layerserve.cli.output import print_json, print_line, print_table
from layerserve.cli.server_commands import Result, on_server
from layerserve.cli.slice_commands import SliceCommands
from layerserve.cli.whole_ids import whole_id, with_whole_ids
from layerserve.errors import InvalidArgument
from layerserve.sweeps import Sweep
from layerserve.sweeps.sweep import Range, SweepInfo, SweepMethod
from layerserve.training.options.arguments import TRAIN
from layerserve.training.options.keywords import TrainKeywords

#: Time between two looks at a sweep that is watched, in seconds.
LOOK_SECONDS = 1.0

_ARRAYS = "[NAME=]server:PATH"
SweepId = Annotated[
    str, typer.Argument(metavar="SWEEP", help="ID of the sweep, or its first or random digits.", show_default=False)
]
Space = Annotated[
    list[str],
    typer.Option(
        "--try",
        metavar="NAME=VALUES",
        help="A setting that differs between trials: batch_size=16,32 or seed=[1,2] or "
        "optimizer.learning_rate=1e-5..1e-2:log or epochs=5..20 or NAME=0..1:step=0.1.",
    ),
]

#: Options for data, which is on the server.
_DATA = {
    "x": Annotated[
        list[str] | None, typer.Option("--x", metavar=_ARRAYS, help="Inputs: server:PATH[:KEY] or dataset:ID:KEY.")
    ],
    "y": Annotated[list[str] | None, typer.Option("--y", metavar=_ARRAYS, help="Targets, in the same forms.")],
    "data": EVALUATION_DATA["data"],
    "sample_weight": Annotated[list[str] | None, typer.Option(metavar=_ARRAYS, help="Weight of each row.")],
    "validation_x": Annotated[list[str] | None, typer.Option(metavar=_ARRAYS, help="Validation inputs.")],
    "validation_y": Annotated[list[str] | None, typer.Option(metavar=_ARRAYS, help="Validation targets.")],
}

sweep_app = new_group("Search over the settings of training.")


@sweep_app.command()
@on_server
@flags(TRAIN, _DATA)
def start(
    client: Client,
    model: ModelName,
    space: Space,
    method: Annotated[str, typer.Option(metavar="[random|grid]", help="How settings are chosen.")] = "random",
    trials: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Number of trials.  [default: 20, or the grid]")
    ] = None,
    parallel: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Trials at a time.  [default: the server's training slots]")
    ] = None,
    search_seed: Annotated[int | None, typer.Option(metavar="N", min=0, help="Seed of the choice of settings.")] = None,
    version: Version = None,
    label: Label = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once; print the sweep's id.")] = False,
    as_json: bool = False,
    **options: Any,
) -> Result | None:
    """Train a model with several settings and publish the best result.

    Ctrl-C stops watching, not the sweep.

    JSON: the sweep at its end, as for `layerserve sweep show`. With --detach: {"sweep"}.
    """
    sweep = client.sweeps.create(
        model,
        **read_data(client, ModelSpecs(client, model, version, label), options),
        space=read_space(space),
        method=cast(SweepMethod, method),
        trials=trials,
        parallel=parallel,
        search_seed=search_seed,
        version=version,
        label=label,
        **cast(TrainKeywords, with_whole_ids(client, read_flags(TRAIN, options))),
    )
    if detach:
        return Result({"sweep": sweep.id}, sweep.id)
    _watch(sweep, as_json)
    return None


def _find(client: Client, given: str) -> Sweep:
    """Returns the sweep of an id, or of its first digits."""
    return client.sweeps.get(whole_id("sweep", given, lambda: (info.id for info in client.sweeps.list())))


def read_space(arguments: Sequence[str]) -> dict[str, Any]:
    """Reads the arguments of `--try`: NAME=VALUE,VALUE or NAME=[JSON] or NAME=LOW..HIGH[:log|:step=N].

    Raises InvalidArgument.
    """
    space: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name or not text:
            raise InvalidArgument(f"--try {argument}: expected NAME=VALUES, such as batch_size=16,32")
        if name in space:
            raise InvalidArgument(f"--try {argument}: got '{name}' twice, expected each setting once")
        try:
            space[name] = _range(text) if ".." in text else _values(text)
        except ValueError as error:
            raise InvalidArgument(f"--try {argument}: {error}") from error
    return space


def _range(text: str) -> Range:
    ends, *modes = text.split(":")
    low, _, high = ends.partition("..")
    step = None
    for mode in modes:
        if mode.startswith("step="):
            step = _number(mode.removeprefix("step="))
        elif mode != "log":
            raise ValueError(f"got '{mode}', expected log or step=N")
    return Range(_number(low), _number(high), step, "log" in modes)


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"got '{text}', expected a number") from None


def _values(text: str) -> list[Any]:
    if text.startswith("["):
        return list(json.loads(text))
    return [_value(one) for one in text.split(",")]


def _value(text: str) -> Any:
    """Returns a number, true, false or null as JSON has them, and any other text as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _watch(sweep: Sweep, as_json: bool) -> None:
    """Prints a line for each trial that has ended, and the table at the end. Raises as `Sweep.wait` does."""
    ended: set[int] = set()
    try:
        while True:
            info = sweep.info()
            if not as_json:
                for trial in info.trials:
                    if trial.state != "running" and trial.number not in ended:
                        ended.add(trial.number)
                        value = "" if trial.value is None else f", {info.monitor} {trial.value:.4g}"
                        print(f"trial {trial.number} of {info.trials_total}: {trial.state}{value}", file=sys.stderr)
            if info.ended:
                break
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        if not as_json:
            print(
                f"the sweep continues; show it with: layerserve sweep show {sweep.id}; "
                f"cancel it with: layerserve sweep cancel {sweep.id}",
                file=sys.stderr,
            )
        raise
    _print(info, as_json)
    sweep.wait()


def _print(info: SweepInfo, as_json: bool) -> None:
    if as_json:
        print_json(info)
        return
    print_table(info.table())
    if info.version is not None:
        print_line(f"published {info.model} version {info.version}")
    elif info.reason:
        print_line(f"not published: {info.reason}")


@sweep_app.command("list")
@on_server
def list_sweeps(
    client: Client,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Only show sweeps of this model.  [default: all models]")
    ] = None,
) -> Result:
    """List sweeps, newest first. JSON: {"sweeps"}, each as for `layerserve sweep show`, without trials."""
    found = client.sweeps.list(model)
    return Result({"sweeps": found}, found.table(f"Sweeps on {client.address}") if found else "no sweeps")


@sweep_app.command()
@on_server
def show(client: Client, sweep: SweepId, as_json: bool = False) -> None:
    """Show a sweep and its trials, the best first.

    JSON: {"id", "state", "model", "base_version", "version", "reason", "method", "trials_total", "trials_ended",
    "monitor", "larger_is_better", "best", "trials", "created_time", "ended_time", "seed", "description", "owner"}, with
    trials as {"number", "state", "settings", "run_id", "value", "history", "reason", "seconds"}.
    """
    _print(_find(client, sweep).info(), as_json)


@sweep_app.command()
@on_server
def plot(
    client: Client,
    sweep: SweepId,
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="File to write: .png, .svg or .pdf.", show_default=False)
    ],
) -> None:
    """Plot the monitored log of all trials by epoch. Requires matplotlib."""
    check_plot(path)
    _find(client, sweep).info().plot(path)


@sweep_app.command()
@on_server
def cancel(client: Client, sweep: SweepId) -> Result:
    """Cancel a sweep and its trials. Nothing is published. JSON: as for `layerserve sweep list`."""
    info = _find(client, sweep).cancel()
    return Result(info, f"sweep {info.id} of {info.model} is {info.state if info.ended else 'being cancelled'}")


@sweep_app.command()
@on_server
def delete(client: Client, sweep: SweepId) -> Result:
    """Delete a sweep that has ended. Its runs, and the version that it published, are kept. JSON: {"deleted"}."""
    found = _find(client, sweep)
    found.delete()
    return Result({"deleted": found.id}, f"sweep {found.id} is deleted")


COMMANDS = SliceCommands(groups={"sweep": sweep_app})
