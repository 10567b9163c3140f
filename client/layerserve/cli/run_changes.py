"""The commands `pause`, `resume`, `stop`, `update` and `publish` of `run`."""

from __future__ import annotations

from typing import Annotated

import typer

from layerserve.calls.connection import DEFAULT_ADDRESS
from layerserve.cli.flags import pairs
from layerserve.cli.options import Address, Json, RunId, connect
from layerserve.cli.output import print_json, print_line
from layerserve.cli.whole_ids import find_run
from layerserve.errors import InvalidArgument
from layerserve.training.run_info import RunInfo


def pause(context: typer.Context, run: RunId, address: Address = DEFAULT_ADDRESS, as_json: Json = False) -> None:
    """Pause a run: it keeps a checkpoint and frees its slot, until `resume`. JSON: as for `layerserve run show`."""
    with connect(context, address) as client:
        _print(find_run(client, run).pause(), "is being paused", as_json)


def resume(context: typer.Context, run: RunId, address: Address = DEFAULT_ADDRESS, as_json: Json = False) -> None:
    """Resume a paused or interrupted training run from its latest checkpoint. JSON: as for
    `layerserve run show`.
    """
    with connect(context, address) as client:
        _print(find_run(client, run).resume(), "is being resumed", as_json)


def stop(context: typer.Context, run: RunId, address: Address = DEFAULT_ADDRESS, as_json: Json = False) -> None:
    """End the training of a run early and publish its result so far. JSON: as for `layerserve run show`."""
    with connect(context, address) as client:
        _print(find_run(client, run).stop(), "is being stopped", as_json)


def update(
    context: typer.Context,
    run: RunId,
    priority: Annotated[
        int | None, typer.Option(metavar="N", help="Runs of a higher priority leave the queue first.")
    ] = None,
    description: Annotated[str | None, typer.Option(metavar="TEXT", help="Text to keep with the run.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Metadata to set. May be given several times.")
    ] = None,
    remove_metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Metadata to remove. May be given several times.")
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """Change the priority, description or metadata of a training run. JSON: as for `layerserve run show`."""
    changes: dict[str, str | None] = dict.fromkeys(remove_metadata or ())
    changes |= pairs("--metadata", metadata or ())
    if priority is None and description is None and not changes:
        raise InvalidArgument("update: got no change, expected --priority, --description or metadata")
    with connect(context, address) as client:
        info = find_run(client, run).update(priority=priority, description=description, metadata=changes)
    if as_json:
        print_json(info)
    else:
        print_line(f"run {info.id} of {info.model} is updated")


def publish(
    context: typer.Context,
    run: RunId,
    label: Annotated[str | None, typer.Option(metavar="TEXT", help="Label to give to the version.")] = None,
    expected_base_version: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only publish if this is still the newest version.")
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """Publish the result of a training run that ended without publishing it. JSON: as for `layerserve run show`."""
    with connect(context, address) as client:
        info = find_run(client, run).publish(label=label, expected_base_version=expected_base_version)
    if as_json:
        print_json(info)
    else:
        print_line(f"published {info.model} version {info.version}" + (f"; {info.kept_back}" if info.kept_back else ""))


def _print(info: RunInfo, under_way: str, as_json: bool) -> None:
    if as_json:
        print_json(info)
    elif info.state in ("queued", "running"):
        print_line(f"run {info.id} of {info.model} {under_way}")
    else:
        print_line(f"run {info.id} of {info.model} is {info.state}")
