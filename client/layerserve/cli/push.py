"""The command `push`."""

from __future__ import annotations

from typing import Annotated

import typer

from layerserve import Client
from layerserve.cli.options import Label, ModelName, Version
from layerserve.cli.server_commands import Result, on_server
from layerserve.registries.push import push as push_to


@on_server
def push(
    client: Client,
    model: ModelName,
    to: Annotated[
        str,
        typer.Argument(
            metavar="TO", help="hf://USER/REPOSITORY[@REVISION] or models:/NAME[@ALIAS].", show_default=False
        ),
    ],
    version: Version = None,
    label: Label = None,
) -> Result:
    """Copy a version of a model to the hub of Hugging Face, or to MLflow's registry.

    Golden numbers that the server computes, and a card with signature and digests go with it. A repository that doesn't
    exist is created, and is private. An alias is moved to the new version.

    JSON: {"model", "version", "to", "sha256"}.
    """
    try:
        pushed = push_to(client, model, to, version=version, label=label)
    except ModuleNotFoundError as error:
        package = {"mlflow": "mlflow-skinny"}.get(error.name or "", error.name)
        raise OSError(f"push to {to}: requires {package}: pip install {package}") from None
    document = {"model": pushed.model, "version": pushed.version, "to": pushed.address, "sha256": pushed.sha256}
    return Result(document, f"{pushed.model}: version {pushed.version} is at {pushed.address}")
