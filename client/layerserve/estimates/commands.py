"""The flag `--dry-run` of `train` and `evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from layerserve import Client
from layerserve.cli.output import print_json, print_table
from layerserve.cli.slice_commands import Mode, SliceCommands
from layerserve.errors import InvalidArgument
from layerserve.estimates.estimate import RunEstimate


def start(client: Client, name: str) -> Callable[..., RunEstimate]:
    """Returns what estimates a call of the client's method of this name."""
    found: Callable[..., RunEstimate] = getattr(client.estimates, name)
    return found


def show(estimate: Any, as_json: bool) -> None:
    """Prints an estimate. Raises InvalidArgument with its first problem, after all of them have been printed."""
    if as_json:
        print_json(estimate)
    else:
        print_table(estimate.table())
    if estimate.problems:
        raise InvalidArgument(estimate.problems[0])


_HELP = "Send no data and start nothing; show problems, time, memory and disk space."
COMMANDS = SliceCommands(modes=[Mode("dry_run", _HELP, start, show)])
