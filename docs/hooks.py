"""What mkdocs calls while it builds the site: the navigation of docs/README.md, and links to files outside of docs/."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parent
ROOT = DOCS.parent
#: Folder of the site for what lies outside of docs/.
OUTSIDE = "repository"
SECTION = re.compile(r"^## (.*)$|^- \[([^\]]*)\]\(([^)\s]*)\)", re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
#: Blocks, in which nothing is a link, or a link.
BLOCK_OR_LINK = re.compile(rf"^```.*?^```$|{LINK.pattern}", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Sections are the headings of docs/README.md, pages the links at the beginning of its list items."""
    sections: list[dict[str, list[dict[str, str]]]] = []
    for heading, title, target in SECTION.findall((DOCS / "README.md").read_text("utf-8")):
        if heading:
            sections.append({heading: []})
        else:
            [pages] = sections[-1].values()
            pages.append({title: site_path(source_of("README.md").parent, target)})
    config.nav = [{"Overview": "README.md"}, *sections]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files outside of docs/ that its pages name."""
    for path in sorted(set(outside())):
        uri = f"{OUTSIDE}/{path.relative_to(ROOT).as_posix()}"
        if path.suffix == ".md":
            files.append(
                File.generated(config, uri, content=path.read_text("utf-8"), inclusion=InclusionLevel.NOT_IN_NAV)
            )
        else:
            # Browsers show text, and download what they have no type for.
            files.append(File.generated(config, f"{uri}.txt", abs_src_path=str(path)))
    return files


def outside() -> Iterator[Path]:
    for page in DOCS.rglob("*.md"):
        for match in BLOCK_OR_LINK.finditer(page.read_text("utf-8")):
            path = (page.parent / (match[2] or "")).resolve()
            if path.is_file() and not path.is_relative_to(DOCS):
                yield path


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between files of the repository into links of the site; those to what it lacks become plain text."""
    folder = source_of(page.file.src_uri).parent

    def moved(match: re.Match[str]) -> str:
        if not match[2]:
            return match[0]
        target = site_path(folder, match[2])
        if target not in files.src_uris and page.file.src_uri.startswith(OUTSIDE):
            return match[1]
        return f"[{match[1]}]({posixpath.relpath(target, posixpath.dirname(page.file.src_uri))}{match[3] or ''})"

    return BLOCK_OR_LINK.sub(moved, markdown)


def source_of(uri: str) -> Path:
    """The file of the repository that a page comes from."""
    return ROOT / uri.removeprefix(f"{OUTSIDE}/") if uri.startswith(f"{OUTSIDE}/") else DOCS / uri


def site_path(folder: Path, target: str) -> str:
    """The path in the site of a file that a page in `folder` names."""
    path = Path(os.path.normpath(folder / target))
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return f"{OUTSIDE}/{path.relative_to(ROOT).as_posix()}{'' if path.suffix == '.md' else '.txt'}"
