"""The command `run files`, which lists and downloads the files of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layerserve import Client
from layerserve.cli.options import RunId
from layerserve.cli.server_commands import Result, on_server
from layerserve.cli.whole_ids import find_run
from layerserve.values.tables import Table


@on_server
def files(
    client: Client,
    run: RunId,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Names of files.  [default: all files]")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Download the files to this directory, which is created if missing."),
    ] = None,
) -> Result:
    """List or download the files written by the callbacks of a run (CSVLogger, ...), or the result of scoring.

    JSON: {"files": [{"name", "bytes", "modified_time"}]}; with --to: {"files": [{"name", "path"}]}.
    """
    found = find_run(client, run)
    listed = [file for file in found.files() if not names or file.name in names]
    if to is None:
        rows = [(one.name, str(one.bytes), one.modified_time.isoformat(" ", "seconds")) for one in listed]
        table = Table(f"Files of run {found.id}", ("Name", "#Bytes", "Written"), rows)
        return Result({"files": listed}, table if listed else "no files")
    to.mkdir(parents=True, exist_ok=True)
    # Including names that aren't listed, for which the server raises NotFound.
    saved = {name: str(found.download(name, to)) for name in (names or [file.name for file in listed])}
    return Result({"files": [{"name": name, "path": path} for name, path in saved.items()]}, "\n".join(saved.values()))
