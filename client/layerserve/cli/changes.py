"""The commands that change the models of a server: `upload`, `load`, `rollback`, `label`, `canary`, `remove`, ..."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from layerserve import Client
from layerserve.cli.options import ModelName
from layerserve.cli.server_commands import Result, on_server
from layerserve.cli.upload_bar import UploadBar
from layerserve.models.changes import ModelChange
from layerserve.models.info import Models
from layerserve.values.tables import percent_text

_Number = Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Number of the version.", show_default=False)]
_Label = Annotated[str, typer.Argument(metavar="LABEL", help="The label.", show_default=False)]


@on_server
def upload(
    client: Client,
    path: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A .keras or .h5 file, or the folder of a version.", show_default=False),
    ],
    model: ModelName,
    label: Annotated[str | None, typer.Option("--label", "-l", metavar="TEXT", help="Label for the version.")] = None,
    golden: Annotated[
        Path | None, typer.Option(metavar="PATH", help="golden.npz: inputs, and outputs that the version must compute.")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Settings of the model, which replace the present ones.")
    ] = None,
) -> Result:
    """Upload the next version of a model.

    The server loads and tests it before it is published. A warning names each input and output that differs from
    the previous default version.

    JSON: {"model", "version", "default", "versions", "lagging", "differences"}, with versions as in `layerserve
    models`.
    """
    if not path.exists() and Path(model).exists():
        raise typer.BadParameter(
            f"got '{path}', no such file; the file precedes the model: layerserve upload {model} {path}",
            param_hint="FILE",
        )
    with UploadBar() as shown:
        change = client.upload(model, path, golden=golden, settings=settings, label=label, progress=shown)
    return _report(model, f"version {change.version} is published", change)


@on_server
def load(client: Client, model: ModelName) -> Result:
    """Load a model, or read the files and settings of a loaded one again.

    JSON: as for `layerserve upload`.
    """
    return _report(model, "loaded", client.load(model))


@on_server
def unload(client: Client, model: ModelName) -> Result:
    """Unload a model. Its requests are refused until it is loaded again.

    JSON: as for `layerserve upload`.
    """
    return _report(model, "unloaded", client.unload(model))


@on_server
def rollback(
    client: Client,
    model: ModelName,
    version: Annotated[
        int | None,
        typer.Argument(
            metavar="VERSION", min=1, help="Version to roll back to.  [default: the one before]", show_default=False
        ),
    ] = None,
) -> Result:
    """Make an earlier version the default, and pin it: newer ones don't take over until `layerserve unpin`.

    It ends the model's canary: all callers get the version.

    JSON: as for `layerserve upload`.
    """
    change = client.roll_back(model, version=version)
    return _report(model, f"rolled back to version {change.version}", change)


@on_server
def pin(
    client: Client,
    model: ModelName,
    version: _Number,
) -> Result:
    """Make a version the default: newer ones don't take over until `layerserve unpin`.

    JSON: as for `layerserve upload`.
    """
    return _report(model, f"pinned to version {version}", client.pin(model, version))


@on_server
def unpin(client: Client, model: ModelName) -> Result:
    """Make the newest version the default again, or the one in the model's settings.

    JSON: as for `layerserve upload`.
    """
    return _report(model, "unpinned", client.unpin(model))


@on_server
def label(
    client: Client,
    model: ModelName,
    label: _Label,
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION", help="Version to point the label at.", show_default=False)
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the label.")] = False,
) -> Result:
    """Point a label at a version of a model, or remove it.

    JSON: as for `layerserve upload`.
    """
    if remove == (version is not None):
        raise typer.BadParameter("expected a VERSION, or --remove", param_hint="VERSION")
    if version is not None and not version.isdecimal():
        swapped = f"; the label precedes it: layerserve label {model} {version} {label}" if label.isdecimal() else ""
        raise typer.BadParameter(f"got '{version}', expected a number{swapped}", param_hint="VERSION")
    if version is None:
        return _report(model, f"label {label} is removed", client.remove_label(model, label))
    change = client.set_label(model, label, int(version))
    return _report(model, f"label {label} points at version {version}", change)


@on_server
def canary(
    client: Client,
    model: ModelName,
    share: Annotated[
        str | None,
        typer.Argument(metavar="PERCENT", help="Share of callers, such as 5%; 0% ends it.", show_default=False),
    ] = None,
    of_settings: Annotated[bool, typer.Option("--settings", help="Use the share of the model's settings.")] = False,
) -> Result:
    """Show or set the share of callers that get the version of label "canary".

    A rollback ends the canary, and so does making its version the default.

    JSON: as for `layerserve upload`.
    """
    if of_settings and share is not None:
        raise typer.BadParameter("expected a PERCENT, or --settings", param_hint="PERCENT")
    if of_settings or share is not None:
        change = client.set_canary(model, share)
    else:
        # The second call has the error of a model that doesn't exist.
        versions = client.models(model) or (client.model(model),)
        change = ModelChange(None, Models(versions), ())
    return _report(model, "" if change.canary else "no canary", change)


@on_server
def remove(
    client: Client,
    model: ModelName,
    version: Annotated[
        int | None, typer.Argument(metavar="VERSION", min=1, help="Version to delete.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete the model with all versions.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Delete it even if it is the default, pinned, loaded, or being trained."),
    ] = False,
) -> Result:
    """Delete a version of a model, or with --all the model, from the server's disk.

    JSON: as for `layerserve upload`; with --all: {"model", "lagging"}.
    """
    if everything == (version is not None):
        raise typer.BadParameter("expected a VERSION, or --all", param_hint="VERSION")
    if version is not None:
        change = client.delete_version(model, version, force=force)
        return _report(model, f"version {version} is deleted", change)
    lagging = client.delete_model(model, force=force)
    return Result({"model": model, "lagging": lagging}, f"{model} is deleted", _not_in_effect(lagging))


def _report(model: str, what: str, change: ModelChange) -> Result:
    default = change.default.version if change.default else None
    fields = {"version": change.version, "default": default, "versions": change.versions}
    return Result(
        {"model": model, **fields, "lagging": change.lagging, "differences": change.differences},
        f"{model}: " + "; ".join(filter(None, (what, _answering(change)))),
        _not_in_effect(change.lagging),
    )


def _answering(change: ModelChange) -> str:
    """Returns which versions answer requests that name none."""
    default, canary = change.default, change.canary
    text = f"the default is version {default.version}" if default else "there is no default"
    if canary is None:
        return text
    state = "" if canary.state in ("ready", "available") else f", once it is ready: it is {canary.state}"
    return f"{percent_text(canary.canary_share)} of callers get version {canary.version}{state}; {text}"


def _not_in_effect(lagging: Sequence[str]) -> list[str]:
    return [f"not in effect yet in {text}" for text in lagging]
