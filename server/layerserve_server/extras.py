"""Packages that settings need and that may be missing, found without importing them."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec

from layerserve_server.settings.settings import Settings, spellings


def missing_extras(settings: Settings) -> list[str]:
    """Returns an error line per setting that needs a package which isn't installed."""
    lines = []
    for name, packages in settings.needed_modules():
        if missing := [package for module, package in packages.items() if find_spec(module) is None]:
            names = " and ".join(re.split("[<>=]", package)[0] for package in missing)
            lines.append(f"{spellings(name)}: requires {names}: pip install {shlex.join(missing)}")
    return lines
