"""The flag `--dry-run` of `train` and `evaluate`."""

from __future__ import annotations

from collections.abc import Callable

from layerserve import Client
from layerserve.cli.server_commands import Result
from layerserve.cli.slice_commands import Mode, SliceCommands
from layerserve.estimates.estimate import RunEstimate


def start(client: Client, name: str) -> Callable[..., RunEstimate]:
    """Returns what estimates a call of the client's method of this name."""
    found: Callable[..., RunEstimate] = getattr(client.estimates, name)
    return found


def result(estimate: RunEstimate) -> Result:
    """Returns what is printed of an estimate. The first problem is printed behind all of them, as an error."""
    return Result(estimate, estimate.table(), estimate.problems[:1])


_HELP = "Send no data and start nothing; show problems, time, memory and disk space."
COMMANDS = SliceCommands(modes=[Mode("dry_run", _HELP, start, result)])
