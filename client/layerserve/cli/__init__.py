"""The command `layerserve`. Importing it needs neither typer nor the packages that other commands live in."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from layerserve.cli import extensions

#: Exit status for a command line that can't be carried out as it stands, as shells and argparse have it.
USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Carry a command line out and return the exit status: 0 done, 1 an error, 2 usage, 130 interrupted."""
    try:
        return _carry_out(list(sys.argv[1:] if argv is None else argv))
    except BrokenPipeError:
        # Whoever read our output has had enough, as `head` has. What is still in the buffer must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def version_text() -> str:
    """What `--version` prints."""
    return f"layerserve {version('layerserve')}"


def _carry_out(arguments: list[str]) -> int:
    # Before typer: a server's image has no use for it, and its commands read their arguments themselves.
    if arguments == ["--version"]:
        print(version_text())
        return 0
    if arguments and arguments[0] in extensions.names():
        return extensions.run(arguments[0], arguments[1:])
    try:
        from layerserve.cli.app import run
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == "layerserve":
            raise
        print(
            f"layerserve: the command line requires {error.name}; install it with: pip install 'layerserve[cli]'",
            file=sys.stderr,
        )
        return USAGE
    return run(arguments)
