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
    """What each module imports from the page. The core doesn't name extensions, which can be deleted."""
    found = {}
    for path in set(ROOT.rglob("*.py")) - set((ROOT / "extensions").rglob("*.py")):
        if imported := re.search(r"perimeter\.limits import ([^()\n]+|\([^)]+\))", path.read_text()):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("transport.")
            found[module] = names_in(imported[1])
    return found


#: The comment and the line of each entry.
ENTRIES = re.findall(r"^((?:#: .*\n)+)(.+) = ", Path(limits.__file__).read_text(), re.MULTILINE)


@pytest.mark.parametrize(("comment", "names"), ENTRIES, ids=[names for _, names in ENTRIES])
def test_limits_are_enforced_where_the_page_says(comment, names):
    said = {module for place in re.findall(r"\[(.+?)\]", comment) for module in place.split(", ")}
    assert said == {module for module, imported in importers().items() if imported & names_in(names)}


def test_every_limit_has_an_entry():
    assert set().union(*(names_in(names) for _, names in ENTRIES)) == {name for name in vars(limits) if name.isupper()}
