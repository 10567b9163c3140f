"""The site that `make site` builds: its pages look as on the code host, and load nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from doc_blocks import PAGES, ROOT, name_of

pytest.importorskip("material", reason="needs the extra 'docs'")
markdown_it = pytest.importorskip("markdown_it")

#: Elements that both renderers must make the same number of.
STRUCTURE = {"h1", "h2", "h3", "li", "ul", "ol", "table", "tr", "td", "th", "pre", "strong", "em", "blockquote"}
#: Attributes by which a page loads something, by element. Links that a reader follows are those of `a`.
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


class Elements(HTMLParser):
    """Counts the elements of the article, and collects its text and what the page loads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.loaded: list[str] = []
        self.text = ""
        self._inside = "<article" not in html
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._inside = self._inside or tag == "article"
        self.counts[tag] += self._inside
        self.loaded += [value or "" for name, value in attributes if name == LOADED.get(tag)]

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "article"

    def handle_data(self, data: str) -> None:
        self.text += data if self._inside else ""


@pytest.fixture(scope="module", name="site")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    # Without Material's notice about other tools.
    variables = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    made = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr
    assert "WARNING" not in made.stderr
    return folder


def test_pages_look_as_on_the_code_host(site: Path) -> None:
    render = markdown_it.MarkdownIt("commonmark").enable("table")
    for page in PAGES:
        if page.parent == ROOT:
            continue
        shown = Elements(html_of(site, page).read_text("utf-8"))
        expected = Elements(render.render(page.read_text("utf-8")))
        assert counts(shown) == counts(expected), name_of(page)
        assert words(shown.text.replace("\xb6", "")) == words(expected.text), name_of(page)


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    loaded = {address for page in pages for address in Elements(page.read_text("utf-8")).loaded}
    assert loaded
    assert [address for address in loaded if re.match(r"(https?:)?//", address)] == []
    styles = "".join(file.read_text("utf-8") for file in site.rglob("*.css"))
    assert styles
    assert re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)]*", styles) == []


def test_the_files_that_pages_name_outside_of_docs_are_there(site: Path) -> None:
    comparison = (site / "comparison.html").read_text("utf-8")
    assert 'href="repository/lab/benchmarks/index.html#serving"' in comparison
    assert (site / "repository/lab/benchmarks/index.html").is_file()
    contract = ROOT / "proto/layerserve/v1/management.proto"
    assert (site / "repository/proto/layerserve/v1/management.proto.txt").read_bytes() == contract.read_bytes()


def html_of(site: Path, page: Path) -> Path:
    path = page.relative_to(ROOT / "docs").with_suffix(".html")
    return site / (path.with_name("index.html") if path.stem == "README" else path)


def counts(elements: Elements) -> dict[str, int]:
    return {tag: number for tag, number in sorted(elements.counts.items()) if number and tag in STRUCTURE}


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)
