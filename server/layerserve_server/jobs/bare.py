"""Programs that use modules of a package without what the package itself imports."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType


def import_bare(package: str) -> None:
    """Makes later imports find modules of a package without running its `__init__`: layergraph's imports torch."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    bare = ModuleType(package)
    bare.__path__ = list(spec.submodule_search_locations or ())
    sys.modules[package] = bare
