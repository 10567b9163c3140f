"""What error texts and help say to install."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("folder", ["client", "server", "modelzoo", "deploy"])
def test_no_text_names_the_project_on_the_package_index(folder: str) -> None:
    # The name there is somebody else's. A hint names a package that is missing, or an extra of the repository.
    paths = [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml", ".json", ".service")]
    wrong = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in paths
        for found in re.finditer(r"layerserve\[[a-z]|pip install '?layerserve", path.read_text("utf-8"))
    ]
    assert not wrong
