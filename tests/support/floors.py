"""Which modules of a package may import which: the floors that ARCHITECTURE.md prints, and all imports by `ast`."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: A room's line: its floor, its name, and what it is for.
_LINE = re.compile(r"^ ?(\d{1,2})  (\w+)/?  +\S", re.MULTILINE)
#: The room of a package's own `__init__`.
FACE = "__init__"


def printed_floors(package: str) -> dict[str, int]:
    """Room -> floor, as ARCHITECTURE.md has them below the package's heading; 1 is the ground."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    section = text.partition(f"\n## {package}")[2]
    block = section.split("```")[1]
    lines = _LINE.findall(block)
    floors = {room: int(floor) for floor, room in lines}
    assert len(floors) == len(lines), "a room is listed twice"
    return floors


def sources(package: str) -> dict[str, str]:
    """Module name -> text, for all modules of a package; a folder's `__init__` as `folder.__init__`."""
    folder = ROOT / "server" / package
    return {
        ".".join(path.relative_to(folder.parent).with_suffix("").parts): path.read_text("utf-8")
        for path in sorted(folder.rglob("*.py"))
    }


def room_of(module: str) -> str:
    """The file or folder of the package in which a module lies."""
    return module.split(".")[1]


def wrong_imports(modules: Mapping[str, str], floors: Mapping[str, int]) -> list[str]:
    """The imports of a package's own modules, wherever they stand, that lead to no lower floor of another room."""
    return [
        f"{module}:{line}: {own} (floor {floors[own]}) imports {room} (floor {floors[room]})"
        for own, module, text in ((room_of(module), module, text) for module, text in modules.items())
        for line, room in _imported_rooms(module, text, floors)
        if room != own and floors[room] >= floors[own]
    ]


def circles(modules: Mapping[str, str]) -> list[str]:
    """The folders that import themselves, by way of files and folders that lie beside them.

    What a folder's own `__init__` imports for its users, and who imports it, doesn't count.
    """
    beside: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    folders = set[str]()
    for module, text in modules.items():
        own = module.split(".")
        folders |= {".".join(own[:depth]) for depth in range(1, len(own))}
        for _, name in _imported_names(module, text):
            other = _module_of(name, modules).split(".")
            depth = next((at for at, (one, two) in enumerate(zip(own, other, strict=False)) if one != two), 0)
            if depth and FACE not in (own[depth], other[depth]):
                beside[".".join(own[:depth])][own[depth]].add(other[depth])
    return [
        f"{folder}.{room}"
        for folder, imported in beside.items()
        for room in imported
        if f"{folder}.{room}" in folders and room in _reached(imported, room)
    ]


def _reached(imported: Mapping[str, set[str]], room: str) -> set[str]:
    found, left = set[str](), [room]
    while left:
        new = imported.get(left.pop(), set()) - found
        found |= new
        left.extend(new)
    return found


def _module_of(name: str, modules: Container[str]) -> str:
    """The module that an imported name is, or is in: `a.b.c` is module `a.b`, or `a.b.__init__`; itself of others."""
    module = name
    while module:
        for candidate in (module, f"{module}.{FACE}"):
            if candidate in modules:
                return candidate
        module = module.rpartition(".")[0]
    return name


def _imported_rooms(module: str, text: str, rooms: Container[str]) -> Iterator[tuple[int, str]]:
    package = module.partition(".")[0]
    for line, name in _imported_names(module, text):
        first, *inside = name.split(".")
        if first == package:
            yield line, inside[0] if inside and inside[0] in rooms else FACE


def _imported_names(module: str, text: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a module imports, wherever it does."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # A relative import counts from the module's folder.
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield node.lineno, name
