"""The command `score` with a dataset of a server: it begins a run, and watches it."""

from __future__ import annotations

from typing import Any

from layerserve import Client, TrainingRun
from layerserve.cli.output import print_json, print_line
from layerserve.cli.training import follow
from layerserve.scoring.files.progress import ScoringBar
from layerserve.training.events import RunCancelled, StepProgress, TrainingEvent


def score_dataset(client: Client, model: str, *, detach: bool, as_json: bool, **options: Any) -> None:
    """Begins a run with these arguments of `Client.score`, and shows its progress to the end, unless `detach`."""
    run = client.score(model, **options)
    if detach:
        if as_json:
            print_json({"run": run.id})
        else:
            print_line(run.id)
        return
    follow(run, as_json, _show)
    if as_json:
        return
    logs, to = run.info().logs, options["to"]
    rejected = f", and {logs['rejected']:,.0f} rejected" if logs.get("rejected") else ""
    print_line(f"{run.model} version {run.base_version}: {logs.get('rows', 0):,.0f} rows to {to}{rejected}")
    print_line(f"download the result with: layerserve run files {run.id} --to FOLDER")


def _show(run: TrainingRun) -> RunCancelled | None:
    """Shows the rows of a run to its end. Returns the last event if the run was cancelled."""
    event: TrainingEvent | None = None
    with ScoringBar() as bar:
        for event in run:
            if isinstance(event, StepProgress):
                bar(event.step, event.steps_per_epoch or None)
    return event if isinstance(event, RunCancelled) else None
