"""The command `layerserve zoo`, which lists the models of the zoo and builds them into a repository."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerserve.cli import USAGE
from layerserve.cli.parser import Parser, with_default

if TYPE_CHECKING:
    from layergraph import Model
    from layergraph.functional.tensor import TensorSpec

    from layerserve_zoo.zoo import ZooModel

#: Help texts of the commands.
LIST = "List the models with their inputs and outputs."
BUILD = "Build models into a repository, as NAME/1/model.keras."

#: Exit status for errors other than invalid arguments.
FAILED = 1
#: Version folder and file name of the built models.
VERSION, FILE = "1", "model.keras"


def zoo(argv: Sequence[str]) -> int:
    """Runs `layerserve zoo ARGV`. Returns the exit status."""
    arguments = _parser().parse_args(list(argv))
    status: int = arguments.run(arguments)
    return status


def _parser() -> Parser:
    parser = Parser(prog="layerserve zoo", description="List and build the ten models of Keras's functional API guide.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help=LIST, description=LIST, prog="layerserve zoo list")
    listing.add_argument("--small", action="store_true", help="Show the models in small sizes.")
    listing.add_argument("--json", action="store_true", help="Print JSON instead of text.")
    listing.set_defaults(run=_list)

    building = commands.add_parser("build", help=BUILD, description=BUILD, prog="layerserve zoo build")
    building.add_argument("names", nargs="*", metavar="NAME", help=with_default("Models to build.", "all"))
    building.add_argument(
        "--to", type=Path, required=True, metavar="PATH", help="Folder of the repository.  [required]"
    )
    building.add_argument(
        "--small", action="store_true", help="Build the models in small sizes, which run in milliseconds."
    )
    building.add_argument("--force", action="store_true", help="Replace existing models.")
    building.add_argument(
        "--seed", type=int, default=0, metavar="N", help=with_default("Seed of the initial weights.", 0)
    )
    building.add_argument("--json", action="store_true", help="Print JSON instead of text.")
    building.set_defaults(run=_build)
    return parser


def _list(arguments: argparse.Namespace) -> int:
    from layerserve_zoo.zoo import ZOO

    entries = [_described(entry, arguments.small) for entry in ZOO.values()]
    print(json.dumps(entries, indent=1) if arguments.json else "\n".join(map(_text, entries)))
    return 0


def _described(entry: ZooModel, small: bool) -> dict[str, Any]:
    model = entry.outline(small=small)
    return {
        "name": entry.name,
        "description": entry.description,
        "parameters": model.count_params(),
        "compiled": model.compiled,
        "inputs": [_spec(spec) for spec in model.input_specs],
        "outputs": [_spec(spec) for spec in model.output_specs],
    }


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}


def _text(entry: dict[str, Any]) -> str:
    tensors = [f"    {way[:-1]:6} {_tensor_text(spec)}" for way in ("inputs", "outputs") for spec in entry[way]]
    return "\n".join([f"{entry['name']}: {entry['description']}", *tensors, f"    {entry['parameters']:,} parameters"])


def _tensor_text(spec: dict[str, Any]) -> str:
    return f"{spec['name']} {tuple(spec['shape'])} {spec['dtype']}"


def _build(arguments: argparse.Namespace) -> int:
    from layerserve_zoo.zoo import ZOO

    names = list(dict.fromkeys(arguments.names)) or list(ZOO)
    if unknown := [name for name in names if name not in ZOO]:
        return _refuse(f"unknown model {', '.join(map(repr, unknown))}; the zoo has {', '.join(ZOO)}")
    targets = {name: arguments.to / name / VERSION / FILE for name in names}
    present = [str(path) for path in targets.values() if path.exists()]
    if present and not arguments.force:
        return _refuse(f"{', '.join(present)} already exists; use --force to replace")
    built = []
    for name, path in targets.items():
        try:
            parameters = _write(ZOO[name].make(small=arguments.small, seed=arguments.seed), path)
        except OSError as error:
            return _refuse(f"{path}: {error.strerror or error}", FAILED)
        built.append({"name": name, "path": str(path), "parameters": parameters})
        if not arguments.json:
            print(f"{path}  {parameters:,} parameters", flush=True)
    if arguments.json:
        print(json.dumps(built, indent=1))
    return 0


def _write(model: Model, path: Path) -> int:
    """Writes a model to a temporary folder and moves it, so that a running server never reads an incomplete version.

    Returns the number of parameters. Raises OSError.
    """
    folder = path.parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".zoo-", dir=folder.parent) as temporary:
        written = Path(temporary) / path.name
        model.save(written)
        folder.mkdir(exist_ok=True)
        os.replace(written, path)
    return model.count_params()


def _refuse(reason: str, status: int = USAGE) -> int:
    print(f"layerserve zoo: {reason}", file=sys.stderr)
    return status
