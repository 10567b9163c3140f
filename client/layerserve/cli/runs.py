"""The command `run`: the runs of training and evaluation."""

from __future__ import annotations

import typer

from layerserve.cli import run_changes, training
from layerserve.cli.groups import new_group
from layerserve.cli.plot import plot
from layerserve.cli.run_files import files
from layerserve.cli.run_list import list_runs, show


def commands() -> typer.Typer:
    """Makes the group of these commands."""
    group = new_group("List, show, watch, pause, resume, stop, cancel, publish and delete runs.")
    group.command("list")(list_runs)
    group.command("show")(show)
    group.command("watch")(training.watch)
    group.command("plot")(plot)
    group.command("files")(files)
    group.command("pause")(run_changes.pause)
    group.command("resume")(run_changes.resume)
    group.command("stop")(run_changes.stop)
    group.command("cancel")(run_changes.cancel)
    group.command("update")(run_changes.update)
    group.command("publish")(run_changes.publish)
    group.command("delete")(run_changes.delete)
    return group
