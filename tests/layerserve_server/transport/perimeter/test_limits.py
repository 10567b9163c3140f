"""The page of limits is true: each is enforced by the modules that it names, and by no others."""

import re
from pathlib import Path

import layerserve_server
import pytest
from layerserve_server.transport.perimeter import limits

ROOT = Path(layerserve_server.__file__).parent


def names_in(text):
    return set(re.findall(r"\b[A-Z][A-Z_]+\b", text))


def importers():
    """What each module of the core imports from the page, which doesn't name extensions: they can be deleted."""
    return {module: names for module, names in imported_below(ROOT) if not module.startswith("extensions.")}


def imported_below(folder):
    for path in folder.rglob("*.py"):
        if imported := re.search(r"perimeter\.limits import ([^()\n]+|\([^)]+\))", path.read_text()):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("transport.")
            yield module, names_in(imported[1])


def test_extensions_import_no_limit_that_the_core_does_not_enforce():
    of_core = set().union(*importers().values())
    of_extensions = set().union(*(imported for _, imported in imported_below(ROOT / "extensions")))
    assert of_extensions <= of_core


#: The comment and the line of each entry.
ENTRIES = re.findall(r"^((?:#: .*\n)+)(.+) = ", Path(limits.__file__).read_text(), re.MULTILINE)


@pytest.mark.parametrize(("comment", "names"), ENTRIES, ids=[names for _, names in ENTRIES])
def test_limits_are_enforced_where_the_page_says(comment, names):
    said = {module for place in re.findall(r"\[(.+?)\]", comment) for module in place.split(", ")}
    assert said == {module for module, imported in importers().items() if imported & names_in(names)}


def test_every_limit_has_an_entry():
    assert set().union(*(names_in(names) for _, names in ENTRIES)) == {name for name in vars(limits) if name.isupper()}
