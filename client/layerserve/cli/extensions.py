"""Commands of other packages: entry points of the group `layerserve.commands`, loaded when they are called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

#: Group of the entry points. Each is a function that takes the arguments after the command's name and returns the exit
#: status.
GROUP = "layerserve.commands"

#: Help texts of layerserve's own commands.
HELP = {
    "serve": "Serve a repository of models, or a single model file.",
    "inspect": "Show the layers, nodes and parameters of a model file.",
    "convert": "Convert a model file to ONNX, torch.export's .pt2, .keras or .h5.",
    "token": "Create tokens for callers of a server.",
    "zoo": "List and build the models of Keras's functional API guide.",
}

#: The extra that installs the packages of these commands.
EXTRA = "server"

OURS = ("layerserve", "layergraph", "layerserve_server", "layerserve_zoo")


def names() -> tuple[str, ...]:
    """Returns the names of the commands, from packages' metadata, without importing them."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def variables() -> set[str] | None:
    """Returns the variables of other packages, by their modules `extensions.installed`; None if none has one.

    Imports these modules, so this is called only if there are variables that the client doesn't have.
    """
    found: set[str] | None = None
    for package in {point.module.partition(".")[0] for point in entry_points(group=GROUP)}:
        try:
            module = import_module(f"{package}.extensions.installed")
        except ImportError:
            continue
        found = (found or set()) | set(module.variables())
    return found


def run(name: str, argv: Sequence[str]) -> int:
    """Loads and calls a command. Returns its exit status. Prints one line if a package is missing."""
    point = next(iter(entry_points(group=GROUP, name=name)))
    try:
        return int(point.load()(list(argv)) or 0)
    except ModuleNotFoundError as error:
        print(f"layerserve {name}: {_what_is_missing(point, error)}", file=sys.stderr)
        return 2


def _what_is_missing(point: EntryPoint, error: ModuleNotFoundError) -> str:
    missing = (error.name or str(error)).partition(".")[0]
    if missing in OURS or not point.module.startswith(OURS):
        return f"its package can't be imported: {error}"
    return f"requires {missing}: pip install '.[{EXTRA}]' in the folder of the repository"
