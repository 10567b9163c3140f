"""Commands that live in other packages: entry points in `layerserve.commands`, loaded when they are called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

#: The group of entry points. Each loads to a function that takes the arguments after the command's name and returns an
#: exit status.
GROUP = "layerserve.commands"

#: What the help says of the commands that belong to layerserve.
HELP = {
    "serve": "Serve a repository of models, or a single model file.",
    "inspect": "Show the layers, nodes and parameters of a model file.",
    "zoo": "List and build the models of Keras's functional API guide.",
}

#: The extra that brings what a command imports.
EXTRA = "server"

OURS = ("layerserve", "layergraph", "layerserve_server", "layerserve_zoo")


def names() -> tuple[str, ...]:
    """The commands there are. Reads packages' metadata and imports none of them."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def run(name: str, argv: Sequence[str]) -> int:
    """Load a command and call it; returns its exit status. A package that it lacks is said in one line."""
    point = next(iter(entry_points(group=GROUP, name=name)))
    try:
        return int(point.load()(list(argv)) or 0)
    except ModuleNotFoundError as error:
        print(f"layerserve {name}: {_what_is_missing(point, error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _what_is_missing(point: EntryPoint, error: ModuleNotFoundError) -> str:
    missing = (error.name or str(error)).partition(".")[0]
    if missing in OURS or not point.module.startswith(OURS):
        return f"its package can't be imported: {error}"
    return f"requires {missing}; install it with: pip install 'layerserve[{EXTRA}]'"
