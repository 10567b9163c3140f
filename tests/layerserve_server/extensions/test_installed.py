"""The table of extensions, the settings that they add, and what the core may know of them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from layerserve_server.access.gate import Gate
from layerserve_server.access.rights import MissingRightError
from layerserve_server.extensions.extension import Extension, Part
from layerserve_server.extensions.installed import EXTENSIONS, OWN, Settings
from layerserve_server.settings.settings import Settings as CoreSettings

SERVER = Path(__file__).parents[3] / "server" / "layerserve_server"


def test_the_table_has_every_folder() -> None:
    folders = {path.parent.name for path in SERVER.glob("extensions/*/extension.py")}
    assert folders == OWN.keys() == {one.name for one in EXTENSIONS if one.name in OWN}


def test_the_core_imports_no_extension() -> None:
    """Only the table does, by name."""
    for path in SERVER.rglob("*.py"):
        if "extensions" in path.relative_to(SERVER).parts[:-1] and path.parent.name != "extensions":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert not re.match(r"layerserve_server\.extensions\.(?!extension$|installed$)", node.module), path


def test_settings_of_extensions_have_their_defaults_where_they_are_not_given() -> None:
    class More(CoreSettings):
        extra: int = 3

    core = CoreSettings(max_streams=7)
    assert (More.of(core).extra, More.of(core).max_streams) == (3, 7)
    given = More(extra=4)
    assert More.of(given) is given
    for one in EXTENSIONS:
        if one.settings is not None:
            assert issubclass(Settings, one.settings)


def test_an_extension_need_not_give_anything() -> None:
    empty = Extension(name="empty")
    assert (empty.serving(None), empty.main(None)) == (Part(), Part())  # type: ignore[arg-type]


def test_a_method_of_an_extension_without_a_right_is_refused() -> None:
    with pytest.raises(MissingRightError, match=r"/a\.B/C"):
        Gate(rights={"/a.B/D": "read"}).require_rights(["/a.B/C", "/a.B/D"])
