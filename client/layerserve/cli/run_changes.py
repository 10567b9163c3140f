"""The commands `pause`, `resume`, `stop`, `cancel`, `update`, `publish` and `delete` of `run`."""

from __future__ import annotations

from typing import Annotated

import typer

from layerserve import Client
from layerserve.cli.flags import pairs
from layerserve.cli.options import RunId
from layerserve.cli.server_commands import Result, on_server
from layerserve.cli.whole_ids import find_run
from layerserve.errors import InvalidArgument
from layerserve.training.run_info import RunInfo


@on_server
def pause(client: Client, run: RunId) -> Result:
    """Pause a run: it keeps a checkpoint and frees its slot, until `resume`. JSON: as for `layerserve run show`."""
    return _asked(find_run(client, run).pause(), "is being paused")


@on_server
def resume(client: Client, run: RunId) -> Result:
    """Resume a paused or interrupted training run from its latest checkpoint. JSON: as for
    `layerserve run show`.
    """
    return _asked(find_run(client, run).resume(), "is being resumed")


@on_server
def stop(client: Client, run: RunId) -> Result:
    """End the training of a run early and publish its result so far. JSON: as for `layerserve run show`."""
    return _asked(find_run(client, run).stop(), "is being stopped")


@on_server
def cancel(client: Client, run: RunId) -> Result:
    """Cancel a training run. Nothing is published. JSON: as for `layerserve run show`."""
    return _asked(find_run(client, run).cancel(), "is being cancelled")


@on_server
def update(
    client: Client,
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
) -> Result:
    """Change the priority, description or metadata of a training run. JSON: as for `layerserve run show`."""
    changes: dict[str, str | None] = dict.fromkeys(remove_metadata or ())
    changes |= pairs("--metadata", metadata or ())
    if priority is None and description is None and not changes:
        raise InvalidArgument("update: got no change, expected --priority, --description or metadata")
    info = find_run(client, run).update(priority=priority, description=description, metadata=changes)
    return Result(info, f"run {info.id} of {info.model} is updated")


@on_server
def publish(
    client: Client,
    run: RunId,
    label: Annotated[str | None, typer.Option(metavar="TEXT", help="Label to give to the version.")] = None,
    expected_base_version: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only publish if this is still the newest version.")
    ] = None,
) -> Result:
    """Publish the result of a training run that ended without publishing it. JSON: as for `layerserve run show`."""
    info = find_run(client, run).publish(label=label, expected_base_version=expected_base_version)
    kept_back = f"; {info.kept_back}" if info.kept_back else ""
    return Result(info, f"published {info.model} version {info.version}{kept_back}")


@on_server
def delete(client: Client, run: RunId) -> Result:
    """Delete an ended training run. The version that it published is kept. JSON: {"deleted"}."""
    found = find_run(client, run)
    found.delete()
    return Result({"deleted": found.id}, f"run {found.id} is deleted")


def _asked(info: RunInfo, under_way: str) -> Result:
    state = under_way if info.state in ("queued", "running") else f"is {info.state}"
    return Result(info, f"run {info.id} of {info.model} {state}")
