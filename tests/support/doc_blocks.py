"""The fenced blocks of README.md and docs/."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block. `line` is the line of its first line in the page, from 1."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        """Such as "docs/client.md:5"."""
        return f"{self.page}:{self.line}"

    @property
    def first(self) -> str:
        """The first line."""
        return self.text.partition("\n")[0]


def name_of(page: Path) -> str:
    """Such as "docs/client.md"."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """The blocks in order. Indented Python goes on with the Python block before it, as in `with` statements."""
    text = page.read_text("utf-8")
    found: list[Block] = []
    assert 2 * len(FENCE.findall(text)) == text.count("```"), f"{page}: a fence is indented, or not closed"
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start(2)) + 1
        block = Block(name_of(page), line, match[1], match[2])
        if block.language == "python" and block.text.startswith(" "):
            before = found.pop()
            gap = line - before.line - before.text.count("\n")
            block = Block(before.page, before.line, "python", before.text + "\n" * gap + block.text)
        found.append(block)
    return found


def outside_of_blocks(page: Path) -> str:
    """The text of a page without its blocks."""
    return FENCE.sub("", page.read_text("utf-8"))
