"""The command `layerserve`. Importing it requires neither typer nor the packages of other commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from layerserve.cli import extensions

#: Exit status for an invalid command line or a missing package, as in shells and argparse.
USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line. Returns the exit status: 0 success, 1 error, 2 usage error, 130 interrupted."""
    try:
        status = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()  # here, and not at exit, where Python would report a pipe that its reader has closed
        return status
    except KeyboardInterrupt:  # also while modules are imported, which takes most of the time of a short command
        return 130
    except BrokenPipeError:
        # The reader of the output has closed the pipe, as `head` does. Flushing the rest must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def version_text() -> str:
    """Returns the output of `--version`."""
    return f"layerserve {version('layerserve')}"


def _run(arguments: list[str]) -> int:
    # Before importing typer: a server's image doesn't have it, and other packages' commands parse their own arguments.
    if arguments == ["--version"]:
        print(version_text())
        return 0
    if arguments and arguments[0] in extensions.names():
        return extensions.run(arguments[0], arguments[1:])
    # gRPC's core would write lines of its own in front of the error. It reads the variable when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from layerserve.cli.app import run
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == "layerserve":
            raise
        print(
            f"layerserve: the command line requires {error.name}: pip install typer rich",
            file=sys.stderr,
        )
        return USAGE
    return run(arguments)
