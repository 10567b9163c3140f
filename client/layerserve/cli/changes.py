"""The commands that change the models of a server: `upload`, `load`, `rollback`, `label`, `canary`, `remove`, ..."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from layerserve.cli.options import Address, Json, ModelName, connect
from layerserve.cli.output import print_json, print_line
from layerserve.cli.upload_bar import UploadBar
from layerserve.connection import DEFAULT_ADDRESS
from layerserve.model_changes import ModelChange

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

    The server loads and tests it before it is published.

    JSON: {"model", "version", "default", "versions", "lagging"}, with versions as in `layerserve models`.
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
        str | None, typer.Argument(metavar="PERCENT", help="Share of callers, such as 5%.", show_default=False)
    ] = None,
    of_settings: Annotated[bool, typer.Option("--settings", help="Use the share of the model's settings.")] = False,
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """Set the share of callers that get the version of label "canary".

    JSON: as for `layerserve upload`.
    """
    if of_settings == (share is not None):
        raise typer.BadParameter("expected a PERCENT, or --settings", context, param_hint="PERCENT")
    number = None
    if share is not None:
        try:
            number = float(share.removesuffix("%")) / 100
        except ValueError:
            raise typer.BadParameter(f"got '{share}', expected a number from 0% to 100%", context) from None
    with connect(context, address) as client:
        what = "the settings' share of callers has" if number is None else f"{100 * number:g} % of callers have"
        _report(model, f"{what} the canary", client.set_canary(model, number), as_json)


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
    default = change.default.version if change.default else None
    if as_json:
        fields = {"version": change.version, "default": default, "versions": change.versions, "lagging": change.lagging}
        print_json({"model": model, **fields})
    else:
        print_line(f"{model}: {what}; " + (f"the default is version {default}" if default else "there is no default"))
    _warn(change.lagging)


def _warn(lagging: Sequence[str]) -> None:
    """Prints the processes that lag behind. Exits with status 1 if there are any."""
    for text in lagging:
        print(f"layerserve: not in effect yet in {text}", file=sys.stderr)
    if lagging:
        raise typer.Exit(1)
