"""Options shared by several commands, and the client that is made from them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from layerserve import Client
from layerserve.calls.connection import TLS
from layerserve.cli import extensions, variables, version_text
from layerserve.errors import InvalidArgument

Address = Annotated[
    str,
    typer.Option("--address", "-a", metavar="HOST:PORT", envvar=variables.ADDRESS, help="Address of the server."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.", show_default=False)]
Version = Annotated[
    int | None,
    typer.Option("--version", "-v", metavar="N", help="Version number.  [default: the newest version that is ready]"),
]
Label = Annotated[
    str | None, typer.Option("--label", "-l", metavar="TEXT", help="Label of the version, such as 'stable'.")
]
Outputs = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Comma-separated outputs or other tensors (layer, layer:node or layer:node:tensor).  "
        "[default: all outputs]",
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        metavar="[keras3|keras3_h5|keras2|keras2_h5]", help="File format.  [default: the format of the model's file]"
    ),
]
RunId = Annotated[
    str, typer.Argument(metavar="RUN", help="ID of the run, or its first or random digits.", show_default=False)
]


@dataclass(frozen=True)
class ConnectionOptions:
    """The options of the connection, which precede the command's name."""

    token: str | Path | None = field(repr=False)
    tls: TLS | None
    timeout: float


def _print_version(requested: bool) -> None:
    if requested:
        print(version_text())
        raise typer.Exit


def connection_options(
    context: typer.Context,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            envvar=variables.TOKEN,
            help="Bearer token to send. Other users of this machine can read it in the list of processes; those of the "
            "environment and of a file they can't.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="PATH", envvar=variables.TOKEN_FILE, help="File with the bearer token to send."),
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", envvar=variables.TLS, help="Use TLS.")] = False,
    ca: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            envvar=variables.CA,
            help="PEM file with trusted root certificates. Implies --tls.  [default: the system's]",
        ),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            envvar=variables.CERT,
            help="PEM file with the client's certificate chain. Implies --tls.",
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(metavar="PATH", envvar=variables.KEY, help="PEM file with the certificate's private key."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Timeout for a call, in seconds. 0 disables it.")
    ] = 60.0,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Serve Keras models, and use and train them on a server."""
    use_tls = tls or ca is not None or cert is not None or key is not None
    chosen = _token(context, token, token_file)
    context.obj = ConnectionOptions(chosen, TLS(ca, cert, key) if use_tls else None, timeout or math.inf)


def _token(context: typer.Context, text: str | None, file: Path | None) -> str | Path | None:
    """Returns the token or its file. A flag takes precedence over a variable."""
    if not text or file is None:
        return text or file
    # By name, as releases of typer have classes of their own.
    of_text, of_file = (getattr(context.get_parameter_source(name), "name", "") for name in ("token", "token_file"))
    if of_text == of_file:
        raise typer.BadParameter(
            "got a token and a file of one, expected one of --token and --token-file "
            "(LAYERSERVE_TOKEN and LAYERSERVE_TOKEN_FILE)",
            context,
        )
    return text if of_text == "COMMANDLINE" else file


def connect(context: typer.Context, address: str) -> Client:
    """Returns the client for a command. Raises InvalidArgument if an environment variable is misspelled."""
    if variables.unknown(os.environ) and (wrong := variables.misspelled(os.environ, extensions.variables())):
        raise InvalidArgument("; ".join(wrong))
    options: ConnectionOptions = context.find_root().obj
    return Client(address, timeout=options.timeout, tls=options.tls or False, token=options.token)
