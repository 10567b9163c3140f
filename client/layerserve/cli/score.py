"""The command `score`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from layerserve.calls.connection import DEFAULT_ADDRESS
from layerserve.cli import variables
from layerserve.cli.options import ConnectionOptions, Json, Outputs, Version, connect
from layerserve.cli.output import print_json, print_line
from layerserve.cli.score_dataset import score_dataset
from layerserve.errors import InvalidArgument
from layerserve.scoring.files.locations import location
from layerserve.scoring.scorer import Scorer


def score(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Path of a model file, or of a model's folder; with --address the name of a server's model.",
            show_default=False,
        ),
    ],
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[IN",
            help="Parquet, CSV or .npz file, a folder of them, or a folder of images; local or a URL such as "
            "s3://bucket/rows.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Argument(
            metavar="OUT]", help="Folder, or .parquet, .csv or .npz file; local or a URL.", show_default=False
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            metavar="ID",
            help="Dataset of the server to score in place of IN: the server does it, as a run. The result is files of "
            "the run.",
        ),
    ] = None,
    result: Annotated[
        str | None,
        typer.Option("--to", metavar="NAME", help="Name of the result of a run.  [default: scores.parquet]"),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when the run has begun; print its id.")] = False,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="Comma-separated columns to write beside the outputs, such as the keys of rows."
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--columns",
            "-c",
            metavar="INPUT=NAMES",
            help="Comma-separated columns of an input; several become its last axis. Can be repeated.  [default: the "
            "column with the input's name]",
        ),
    ] = None,
    outputs: Outputs = None,
    version: Version = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", "-b", metavar="N", min=1, help="Rows computed at a time.  [default: about 1 MiB of inputs]"
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", "-w", metavar="N", min=1, help="Processes, which compute with a thread each.  [default: cores]"
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted job.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the result in OUT.")] = False,
    on_error: Annotated[
        str,
        typer.Option(
            metavar="[stop|skip]",
            help="What a row that can't be scored does: stops the job, or is written aside with the reason.",
        ),
    ] = "stop",
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            "-a",
            metavar="HOST:PORT",
            envvar=variables.ADDRESS,
            help="Address of the server.  [default: none, if MODEL is a path; else " + DEFAULT_ADDRESS + "]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute the outputs of a model for all rows of files, or of a dataset, which may be larger than memory.

    The version is fixed at the start. After an interruption, the same command with --resume goes on, and each row is
    in the result once. A row that isn't in it is in the folder _rejected of OUT, with the reason.

    With --dataset, Ctrl-C stops watching, not the run: `layerserve run` watches, pauses, resumes and cancels it, and
    `layerserve run files` downloads the result.

    JSON: {"model", "version", "digest", "to", "rows", "rejected", "rejected_to", "parts", "resumed_parts"}. With
    --dataset: as for `layerserve train`.
    """
    if on_error not in ("stop", "skip"):
        raise typer.BadParameter(f"got {on_error!r}, expected stop or skip", param_hint="--on-error")
    kept = _names(keep) if keep else []
    chosen: dict[str, Any] = {
        "version": version,
        "outputs": _names(outputs) if outputs else None,
        "input_columns": dict(map(_input_columns, columns or ())),
    }
    if dataset is not None:
        _check_absent("--dataset", {"IN": source, "--workers": workers, "--resume": resume, "--overwrite": overwrite})
        with connect(context, address or DEFAULT_ADDRESS) as client:
            score_dataset(
                client,
                model,
                dataset=dataset,
                to=result or "scores.parquet",
                columns=kept,
                batch_size=batch_size,
                on_error=on_error,
                detach=detach,
                as_json=as_json,
                **chosen,
            )
        return
    _check_absent("IN", {"--to": result, "--detach": detach})
    if source is None or to is None:
        raise typer.BadParameter("expected IN and OUT, or --dataset ID")
    written_to = location(to, "OUT")
    # pyarrow is asked for here, before a model is loaded.
    from layerserve.scoring.files.fragments import find
    from layerserve.scoring.files.job import Job
    from layerserve.scoring.files.progress import ScoringBar
    from layerserve.scoring.files.readers import PATH

    found = find(location(source, "IN"))
    if found.kind == "images" and PATH not in kept:
        kept.insert(0, PATH)
    scorer = _scorer(context, model, address, columns=kept, **chosen)
    job = Job(scorer, found, written_to, batch_size=batch_size, on_error="skip" if on_error == "skip" else "stop")
    with ScoringBar() as bar:
        done = job.run(workers=workers or len(os.sched_getaffinity(0)), resume=resume, overwrite=overwrite, report=bar)
    if as_json:
        print_json(done)
        return
    rejected = f", and {done.rejected:,} rejected to {done.rejected_to}" if done.rejected else ""
    resumed = f" ({done.resumed_parts} of {done.parts} parts were done before)" if done.resumed_parts else ""
    print_line(f"{done.model} version {done.version}: {done.rows:,} rows to {done.to}{rejected}{resumed}")


def _check_absent(given: str, others: Mapping[str, object]) -> None:
    """Raises BadParameter for options that have no meaning with what is given."""
    if wrong := [name for name, value in others.items() if value]:
        raise typer.BadParameter(f"got {given} and {', '.join(wrong)}, expected one of the two")


def _scorer(context: typer.Context, model: str, address: str | None, **options: Any) -> Scorer:
    from_flag = getattr(context.get_parameter_source("address"), "name", "") == "COMMANDLINE"
    if os.path.exists(model) and not from_flag:
        return Scorer(model, **options)
    if address is None and (os.sep in model or os.path.splitext(model)[1]):
        raise InvalidArgument(f"MODEL: path {model!r} doesn't exist; pass --address for the model of a server")
    connection = context.find_root().obj
    assert isinstance(connection, ConnectionOptions)
    return Scorer(
        address or DEFAULT_ADDRESS,
        model,
        token=connection.token,
        tls=connection.tls or False,
        timeout=connection.timeout,
        **options,
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _input_columns(text: str) -> tuple[str, list[str]]:
    name, equals, names = text.partition("=")
    if not equals or not names:
        raise InvalidArgument(f"--columns: got {text!r}, expected INPUT=NAMES, such as features=age,height")
    return name, _names(names)
