"""The commands that change the models of a server: `upload`, `load`, `rollback`, `label`, `canary`, `remove`, ..."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from layerserve.calls.connection import DEFAULT_ADDRESS
from layerserve.cli.options import Address, Json, ModelName, connect
from layerserve.cli.output import print_json, print_line
from layerserve.cli.upload_bar import UploadBar
from layerserve.models.changes import ModelChange
from layerserve.models.info import Models
from layerserve.values.tables import percent_text

_Number = Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Number of the version.", show_default=False)]
_Label = Annotated[str, typer.Argument(metavar="LABEL", help="The label.", show_default=False)]


def upload(
    context: typer.Context,
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
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """Upload the next version of a model.

    The server loads and tests it before it is published. A warning names each input and output that differs from
    the previous default version.

    JSON: {"model", "version", "default", "versions", "lagging", "differences"}, with versions as in `layerserve
    models`.
    """
    if not path.exists() and Path(model).exists():
        raise typer.BadParameter(
            f"got '{path}', no such file; the file precedes the model: layerserve upload {model} {path}",
            context,
            param_hint="FILE",
        )
    with connect(context, address) as client, UploadBar() as shown:
        change = client.upload(model, path, golden=golden, settings=settings, label=label, progress=shown)
    _report(model, f"version {change.version} is published", change, as_json)


def load(context: typer.Context, model: ModelName, address: Address = DEFAULT_ADDRESS, as_json: Json = False) -> None:
    """Load a model, or read the files and settings of a loaded one again.

    JSON: as for `layerserve upload`.
    """
    with connect(context, address) as client:
        _report(model, "loaded", client.load(model), as_json)


def unload(context: typer.Context, model: ModelName, address: Address = DEFAULT_ADDRESS, as_json: Json = False) -> None:
    """Unload a model. Its requests are refused until it is loaded again.

    JSON: as for `layerserve upload`.
    """
    with connect(context, address) as client:
        _report(model, "unloaded", client.unload(model), as_json)


def rollback(
    context: typer.Context,
    model: ModelName,
    version: Annotated[
        int | None,
        typer.Argument(
            metavar="VERSION", min=1, help="Version to roll back to.  [default: the one before]", show_default=False
        ),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """Make an earlier version the default, and pin it: newer ones don't take over until `layerserve unpin`.

    It ends the model's canary: all callers get the version.

    JSON: as for `layerserve upload`.
    """
    with connect(context, address) as client:
        change = client.roll_back(model, version=version)
    _report(model, f"rolled back to version {change.version}", change, as_json)


def pin(
    context: typer.Context,
    model: ModelName,
    version: _Number,
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """Make a version the default: newer ones don't take over until `layerserve unpin`.

    JSON: as for `layerserve upload`.
    """
    with connect(context, address) as client:
        _report(model, f"pinned to version {version}", client.pin(model, version), as_json)


def unpin(context: typer.Context, model: ModelName, address: Address = DEFAULT_ADDRESS, as_json: Json = False) -> None:
    """Make the newest version the default again, or the one in the model's settings.

    JSON: as for `layerserve upload`.
    """
    with connect(context, address) as client:
        _report(model, "unpinned", client.unpin(model), as_json)


def label(
    context: typer.Context,
    model: ModelName,
    label: _Label,
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION", help="Version to point the label at.", show_default=False)
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the label.")] = False,
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """Point a label at a version of a model, or remove it.

    JSON: as for `layerserve upload`.
    """
    if remove == (version is not None):
        raise typer.BadParameter("expected a VERSION, or --remove", context, param_hint="VERSION")
    if version is not None and not version.isdecimal():
        swapped = f"; the label precedes it: layerserve label {model} {version} {label}" if label.isdecimal() else ""
        raise typer.BadParameter(f"got '{version}', expected a number{swapped}", context, param_hint="VERSION")
    with connect(context, address) as client:
        if version is None:
            _report(model, f"label {label} is removed", client.remove_label(model, label), as_json)
        else:
            change = client.set_label(model, label, int(version))
            _report(model, f"label {label} points at version {version}", change, as_json)


def canary(
    context: typer.Context,
    model: ModelName,
    share: Annotated[
        str | None,
        typer.Argument(metavar="PERCENT", help="Share of callers, such as 5%; 0% ends it.", show_default=False),
    ] = None,
    of_settings: Annotated[bool, typer.Option("--settings", help="Use the share of the model's settings.")] = False,
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """Show or set the share of callers that get the version of label "canary".

    A rollback ends the canary, and so does making its version the default.

    JSON: as for `layerserve upload`.
    """
    if of_settings and share is not None:
        raise typer.BadParameter("expected a PERCENT, or --settings", context, param_hint="PERCENT")
    with connect(context, address) as client:
        if of_settings or share is not None:
            change = client.set_canary(model, share)
        else:
            # The second call has the error of a model that doesn't exist.
            versions = client.models(model) or (client.model(model),)
            change = ModelChange(None, Models(versions), ())
    _report(model, "" if change.canary else "no canary", change, as_json)


def remove(
    context: typer.Context,
    model: ModelName,
    version: Annotated[
        int | None, typer.Argument(metavar="VERSION", min=1, help="Version to delete.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete the model with all versions.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Delete it even if it is the default, pinned, loaded, or being trained."),
    ] = False,
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """Delete a version of a model, or with --all the model, from the server's disk.

    JSON: as for `layerserve upload`; with --all: {"model", "lagging"}.
    """
    if everything == (version is not None):
        raise typer.BadParameter("expected a VERSION, or --all", context, param_hint="VERSION")
    with connect(context, address) as client:
        if version is not None:
            change = client.delete_version(model, version, force=force)
            _report(model, f"version {version} is deleted", change, as_json)
            return
        lagging = client.delete_model(model, force=force)
    if as_json:
        print_json({"model": model, "lagging": lagging})
    else:
        print_line(f"{model} is deleted")
    _warn(lagging)


def _report(model: str, what: str, change: ModelChange, as_json: bool) -> None:
    if as_json:
        default = change.default.version if change.default else None
        fields = {"version": change.version, "default": default, "versions": change.versions}
        print_json({"model": model, **fields, "lagging": change.lagging, "differences": change.differences})
    else:
        print_line(f"{model}: " + "; ".join(filter(None, (what, _answering(change)))))
    _warn(change.lagging)


def _answering(change: ModelChange) -> str:
    """Returns which versions answer requests that name none."""
    default, canary = change.default, change.canary
    text = f"the default is version {default.version}" if default else "there is no default"
    if canary is None:
        return text
    state = "" if canary.state in ("ready", "available") else f", once it is ready: it is {canary.state}"
    return f"{percent_text(canary.canary_share)} of callers get version {canary.version}{state}; {text}"


def _warn(lagging: Sequence[str]) -> None:
    """Prints the processes that lag behind. Exits with status 1 if there are any."""
    for text in lagging:
        print(f"layerserve: not in effect yet in {text}", file=sys.stderr)
    if lagging:
        raise typer.Exit(1)
