"""Options that several commands have, and the client that they make."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from layerserve.cli import variables, version_text
from layerserve.client import Client
from layerserve.connection import TLS

Address = Annotated[
    str, typer.Option("--address", "-a", envvar=variables.ADDRESS, help="Where the server listens: host:port.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table for people.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.", show_default=False)]
Version = Annotated[
    int | None, typer.Option("--version", "-v", help="Number of the version.  [default: the newest that is ready]")
]
Label = Annotated[str | None, typer.Option("--label", "-l", help="Label of the version, such as stable.")]
Format = Annotated[
    str | None,
    typer.Option(
        metavar="[keras3|keras3_h5|keras2|keras2_h5]", help="Format of the file.  [default: as the model came]"
    ),
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.", show_default=False)]


@dataclass(frozen=True)
class ConnectionOptions:
    """What the options before the command's name say of the connection."""

    token: str | None
    tls: TLS | None
    timeout: float


def _print_version(wanted: bool) -> None:
    if wanted:
        print(version_text())
        raise typer.Exit


def connection_options(
    context: typer.Context,
    token: Annotated[
        str | None,
        typer.Option(
            envvar=variables.TOKEN,
            help="Bearer token to send, for a proxy; the server itself doesn't check it yet.",
            show_envvar=True,
        ),
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", envvar=variables.TLS, help="Connect with TLS.")] = False,
    ca: Annotated[
        Path | None, typer.Option(envvar=variables.CA, help="Authorities to trust, in PEM; implies --tls.")
    ] = None,
    cert: Annotated[Path | None, typer.Option(help="Certificate of the client, in PEM; implies --tls.")] = None,
    key: Annotated[Path | None, typer.Option(help="Key of the client's certificate, in PEM.")] = None,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds that a call may take; 0 for no limit.", show_default=True)
    ] = 60.0,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Predict with, look into and train Keras models that a layerserve server serves."""
    wanted = tls or ca is not None or cert is not None or key is not None
    context.obj = ConnectionOptions(token, TLS(ca, cert, key) if wanted else None, timeout or math.inf)


def connect(context: typer.Context, address: str) -> Client:
    """The client for a command."""
    options: ConnectionOptions = context.find_root().obj
    return Client(address, timeout=options.timeout, tls=options.tls or False, token=options.token)
