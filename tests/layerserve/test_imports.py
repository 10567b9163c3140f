"""Imports among the files of the client, for types and within functions too: none are circular."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import layerserve

FOLDER = Path(layerserve.__file__).parent


@cache
def imports() -> dict[str, set[str]]:
    """The modules of the client that each of them imports. What a package imports for its users doesn't count."""
    files = {_name(path): path for path in FOLDER.rglob("*.py") if path.name != "__init__.py"}
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        nodes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
        named = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names} | {
            node.module for node in nodes if node.module
        }
        found[name] = named & files.keys()
    return found


def _name(path: Path) -> str:
    return ".".join(["layerserve", *path.relative_to(FOLDER).with_suffix("").parts])


def test_no_imports_are_circular():
    found = imports()
    assert "layerserve.values.tables" in found["layerserve.models.info"]
    assert list(TopologicalSorter(found).static_order())


def test_options_are_below_what_is_shown():
    for name, imported in imports().items():
        if name.startswith("layerserve.training.options."):
            assert not imported & {
                "layerserve.models.info",
                "layerserve.models.node_shapes",
                "layerserve.values.tables",
            }, name
