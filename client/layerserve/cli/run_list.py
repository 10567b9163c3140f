"""The commands `run list` and `run show`."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Annotated

import typer

from layerserve import Client
from layerserve.cli.flags import pairs
from layerserve.cli.options import RunId
from layerserve.cli.server_commands import Result, on_server
from layerserve.cli.whole_ids import find_run
from layerserve.training.run_info import RunInfo, Runs
from layerserve.values.tables import Table, moment_text


@on_server
def list_runs(
    client: Client,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Only show runs of this model.  [default: all models]")
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(metavar="STATE", help="Only show runs in this state. May be given several times."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(metavar="[training|evaluation|online|scoring]", help="Only show runs of a kind.")
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only show runs with this metadata. May be given several times."),
    ] = None,
    caller: Annotated[str | None, typer.Option(metavar="TEXT", help="Only show runs that this caller began.")] = None,
    created_after: Annotated[
        datetime | None,
        typer.Option(
            metavar="TIME", help="Only show runs created since then, such as 2026-11-29 or 2026-11-29T16:30:00."
        ),
    ] = None,
    created_before: Annotated[
        datetime | None, typer.Option(metavar="TIME", help="Only show runs created before then.")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="Maximum number of runs. 0 shows all.")] = 20,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="Show the oldest runs first.")] = False,
    as_json: bool = False,
) -> Result:
    """List runs of training, evaluation and scoring, newest first.

    JSON: {"runs", "more"}, with runs as for `layerserve run show`. "more" is whether there are further runs.
    """
    found = client.runs(
        model,
        state=state,
        kind=kind,
        metadata=pairs("--metadata", metadata or ()),
        caller=caller,
        created_after=created_after,
        created_before=created_before,
        limit=limit + 1 if limit else None,  # one more than is shown tells whether there are further ones
        oldest_first=oldest_first,
    )
    shown = Runs(found[:limit] if limit else found)
    more = len(shown) < len(found)
    if more and not as_json:
        which = "oldest" if oldest_first else "newest"
        print(f"these are the {which} {limit} runs; see all with --limit 0", file=sys.stderr)
    return Result({"runs": shown, "more": more}, shown.table(f"Runs on {client.address}") if shown else "no runs")


@on_server
def show(client: Client, run: RunId) -> Result:
    """Show the state, progress and results of a run.

    JSON: {"id", "state", "model", "base_version", "version", "reason", "epochs_done", "epochs", "steps_done",
    "steps_per_epoch", "logs", "created_time", "started_time", "ended_time", "seed", "description", "kind",
    "resumable", "resumed", "priority", "workers", "owner", "parent", "from_checkpoint", "metadata", "caller",
    "withheld", "publishable", "stopped", "idempotency_key", "sweep", "trial", "remaining_seconds", "best",
    "best_epoch", "kept_back"}.
    """
    info = find_run(client, run).info()
    return Result(info, _described(info))


def _described(info: RunInfo) -> Table:
    """Returns a table with a row for each column of the list that isn't empty, and for what only this command shows."""
    listed = info.table()
    rows = [(column.lstrip("#"), cell) for column, cell in zip(listed.columns, listed.rows[0], strict=True)]
    rows += [
        ("Started", moment_text(info.started_time)),
        ("Ended", moment_text(info.ended_time)),
        ("Seed", str(info.seed)),
        ("Caller", info.caller),
        ("Metadata", " ".join(f"{key}={value}" for key, value in info.metadata.items())),
        ("Not published", info.withheld),
    ]
    return Table(f"Run {info.id}", ("What", "Value"), [(name, cell) for name, cell in rows if cell])
