"""The command `run files`, which lists and downloads the files written by a run's callbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layerserve.calls.connection import DEFAULT_ADDRESS
from layerserve.cli.options import Address, Json, RunId, connect
from layerserve.cli.output import print_json, print_line, print_table
from layerserve.cli.whole_ids import find_run
from layerserve.values.tables import Table


def files(
    context: typer.Context,
    run: RunId,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Names of files.  [default: all files]")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Download the files to this directory, which is created if missing."),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """List or download the files written by the callbacks of a run (CSVLogger, TensorBoard, ...).

    JSON: {"files": [{"name", "bytes", "modified_time"}]}; with --to: {"files": [{"name", "path"}]}.
    """
    with connect(context, address) as client:
        found = find_run(client, run)
        listed = [file for file in found.files() if not names or file.name in names]
        if to is None:
            if as_json:
                print_json({"files": listed})
            elif not listed:
                print_line("no files")
            else:
                rows = [(one.name, str(one.bytes), one.modified_time.isoformat(" ", "seconds")) for one in listed]
                print_table(Table(f"Files of run {found.id}", ("Name", "#Bytes", "Written"), rows))
            return
        to.mkdir(parents=True, exist_ok=True)
        # Including names that aren't listed, for which the server raises NotFound.
        saved = [(name, found.download(name, to)) for name in (names or [file.name for file in listed])]
    if as_json:
        print_json({"files": [{"name": name, "path": str(path)} for name, path in saved]})
    else:
        for _, path in saved:
            print_line(str(path))
