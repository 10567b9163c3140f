"""The commands `layerserve inspect` and `layerserve convert`, which need no server."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from layerserve.cli import USAGE
from layerserve.cli.parser import Parser, with_default


def inspect(argv: Sequence[str]) -> int:
    """Prints the layers, nodes and parameters of a model file, or everything in it that is unsupported.

    Returns the exit status.
    """
    parser = Parser(
        prog="layerserve inspect",
        description="Show the layers, nodes and parameters of a model file, or everything in it that is unsupported. "
        "Needs no server.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="A .keras or .h5 file, or a version folder.")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    parser.add_argument(
        "--make-golden",
        action="store_true",
        help="Write golden.npz next to the file, with random inputs and the model's outputs for them. A server then "
        "serves the file only if it reproduces these outputs.",
    )
    parser.add_argument(
        "--engines", action="store_true", help="Time the installed engines on the model and print the results."
    )
    _add_plugins(parser)
    arguments = parser.parse_args(list(argv))

    from layergraph.errors import LayerGraphError, ModelFileError

    from layerserve_server.extensions.model_files import inspection
    from layerserve_server.inference import runner

    try:
        runner.load_plugins(arguments.plugins)
        if arguments.make_golden:
            print(f"wrote {inspection.make_golden(arguments.file)}", file=sys.stderr)
        report = inspection.inspect(arguments.file, engines=arguments.engines)
    except (OSError, LayerGraphError) as error:
        problems = list(error.problems) if isinstance(error, ModelFileError) else [str(error)]
        _print_problems("can't be served", problems, arguments)
        return 1
    print(json.dumps(report, indent=1) if arguments.json else inspection.text(report))
    return 0


def convert(argv: Sequence[str]) -> int:
    """Converts a model file to another format, and prints what was written. Returns the exit status."""
    parser = Parser(
        prog="layerserve convert",
        description="Convert a model file to ONNX, to a program of torch.export, or to another format of Keras, and "
        "compare the new file's outputs with the model's. Nothing is written if they differ. Needs no server.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="A .keras or .h5 file, or a version folder.")
    parser.add_argument("out", type=Path, metavar="OUT", help="The new file: .onnx, .pt2, .keras or .h5.")
    parser.add_argument(
        "--format", metavar="FORMAT", help=with_default("onnx, torch (.pt2), keras or h5.", "by the suffix of OUT")
    )
    parser.add_argument("--opset", type=int, metavar="N", help=with_default("ONNX operator set, from 17 to 20.", "17"))
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help=with_default(
            "Largest difference of an output, relative to its largest value.",
            "1e-05; more if layers compute in 16 bits",
        ),
    )
    parser.add_argument("--force", action="store_true", help="Replace OUT if it exists.")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of text.")
    _add_plugins(parser)
    arguments = parser.parse_args(list(argv))

    from layergraph.errors import ConfigError, LayerGraphError, ModelFileError

    from layerserve_server.extensions.model_files import export
    from layerserve_server.inference import runner

    try:
        runner.load_plugins(arguments.plugins)
        with _ended_by_signals():
            exported = export.convert(
                arguments.file,
                arguments.out,
                format=arguments.format,
                opset=arguments.opset,
                tolerance=arguments.tolerance,
                force=arguments.force,
            )
    except FileExistsError:
        _print_problems("isn't converted", [f"{arguments.out} already exists; use --force to replace"], arguments)
        return USAGE
    except (OSError, LayerGraphError) as error:
        problems = list(error.problems) if isinstance(error, ModelFileError) else [str(error)]
        _print_problems("isn't converted", problems, arguments)
        return USAGE if isinstance(error, ConfigError) else 1
    print(json.dumps(exported.as_dict(), indent=1) if arguments.json else exported.text())
    return 0


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """In the block, SIGINT and SIGTERM end the process, without the files of unfinished exports.

    During an export an exception isn't enough: torch and ONNX Runtime call Python where exceptions are lost.
    """
    from layergraph.models.export import remove_unfinished

    def leave(number: int, frame: FrameType | None) -> None:
        if remove_unfinished():
            os._exit(128 + number)
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _add_plugins(parser: Parser) -> None:
    parser.add_argument(
        "--plugins",
        default="",
        metavar="TEXT",
        help=with_default("Comma-separated Python modules that define custom layers.", "none"),
    )


def _print_problems(outcome: str, problems: Sequence[str], arguments: argparse.Namespace) -> None:
    """Prints what is wrong with a model file: with --json to stdout, otherwise to stderr."""
    if arguments.json:
        print(json.dumps({"file": str(arguments.file), "problems": list(problems)}, indent=1))
    else:
        print(f"{arguments.file} {outcome}:", file=sys.stderr)
        print("\n".join(f"  {problem}" for problem in problems), file=sys.stderr)
