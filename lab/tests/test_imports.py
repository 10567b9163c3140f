"""Scripts that run by hand only still import what exists."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

LAB = Path(__file__).parents[1]
OURS = ("layerserve", "layergraph", "layerserve_server", "layerserve_zoo")
SCRIPTS = sorted(path for path in LAB.rglob("*.py") if path.parent.name != "tests")


def imported(script: Path) -> Iterator[tuple[str, str]]:
    """Module and name of each import from our packages."""
    for node in ast.walk(ast.parse(script.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in OURS:
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(LAB)))
def test_what_a_script_imports_of_ours_exists(script: Path) -> None:
    for module, name in imported(script):
        found = importlib.import_module(module)
        assert hasattr(found, name) or importlib.import_module(f"{module}.{name}")
