"""Which tests run which lines: measured once for each file of tests, and kept until that file changes."""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import math
import re
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from mutations import Mutation


@dataclass(frozen=True)
class Test:
    """One test, as far as choosing needs it."""

    name: str
    #: Seconds that it took on the clock, and of the processor's time.
    clock: float
    work: float
    #: Place in the order of trying, smallest first.
    order: tuple[Any, ...]

    @property
    def tier(self) -> int:
        """How near it comes to the mutation, see `_tier`."""
        tier: int = self.order[0]
        return tier


class Reach:
    """What all files of tests reach, as far as it has been measured."""

    def __init__(self, root: Path, cache: Path) -> None:
        self._root = root
        self._cache = cache
        cache.mkdir(parents=True, exist_ok=True)

    def stale(self) -> list[str]:
        """The files of tests that are new or have changed since they were measured."""
        files = (path.relative_to(self._root).as_posix() for path in (self._root / "tests").rglob("test_*.py"))
        # The slow ones last.
        return sorted(
            (file for file in files if not self._place(file).exists()), key=lambda file: ("end" in file, file)
        )

    def keep(self, file: str, measured: dict[str, Any]) -> None:
        """Stores what a file of tests reaches, with the scopes of the source's lines as they are now."""
        for path, reached in measured["reached"].items():
            reached["scopes"] = scopes((self._root / path).read_bytes())
        place = self._place(file)
        for older in self._cache.glob(f"{_flat(file)}.*"):
            older.unlink()
        place.write_bytes(gzip.compress(json.dumps(measured).encode()))

    def tests(self, mutation: Mutation) -> list[Test]:
        """The tests that may notice a mutation, in the order in which to try them."""
        # What an import runs, it runs in child processes too, and that says nothing of their tests.
        ignored = {line for file in self._files for line in file.imported(mutation.path)}
        source = (self._root / mutation.path).read_bytes()
        near, words = used_at(mutation, source), said(mutation, source)
        found = [test for file in self._files for test in file.tests(mutation, ignored, near)]
        # A child process that is killed, or forked from one, doesn't report what it ran.
        reached = {test.name for test in found}
        found += [test for file in self._files for test in file.namesakes(mutation) if test.name not in reached]
        known = Counter(word for test in found for word in _words(test.name))
        # A word of many tests tells little.
        weights = {word: math.log(len(found) / known[word]) for word in words & known.keys()}
        found = [_ranked(test, sum(weights.get(word, 0.0) for word in _words(test.name))) for test in found]
        return _cases_apart(sorted(found, key=lambda test: test.order))

    @cached_property
    def _files(self) -> list[_File]:
        """All that has been measured: of a file that has changed since, what it reached before."""
        tests = (path.relative_to(self._root).as_posix() for path in (self._root / "tests").rglob("test_*.py"))
        found = ((test, next(self._cache.glob(f"{_flat(test)}.*"), None)) for test in sorted(tests))
        return [_File(test, json.loads(gzip.decompress(place.read_bytes()))) for test, place in found if place]

    def _place(self, file: str) -> Path:
        digest = hashlib.sha256((self._root / file).read_bytes()).hexdigest()[:16]
        return self._cache / f"{_flat(file)}.{digest}.json.gz"


class Killers:
    """Which test killed each mutant last: that one is tried first, alone."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}

    def first(self, mutation: Mutation, tests: list[Test]) -> list[Test]:
        """The tests, the known one before all others."""
        known = self._known.get(mutation.identity)
        found = [replace(test, order=(-1,)) for test in tests if test.name == known]
        return found + [test for test in tests if test.name != known]

    def keep(self, mutation: Mutation, test: str) -> None:
        """Notes what killed a mutant; nothing where it has survived."""
        if test:
            self._known[mutation.identity] = test
        else:
            self._known.pop(mutation.identity, None)
        self._file.write_text(json.dumps(dict(self._known)))


#: Tests that read what classes declare, and so may run none of their lines.
_DECLARATIONS = (
    "tests/layergraph/functional/test_signatures.py",
    "tests/layergraph/config/test_keras2_defaults.py",
    "tests/layerserve/training/test_options.py",
    "tests/layerserve/test_public_api.py",
    "tests/layerserve_server/commands/test_settings_reader.py",
)
#: Tests of less than so many seconds are tried before longer ones.
_QUICK = (0.05, 0.5, 3.0)


class _File:
    """What one file of tests reaches."""

    def __init__(self, name: str, measured: dict[str, Any]) -> None:
        #: The package whose declarations it reads, if it does.
        self._declarations = Path(name).parts[1] if name in _DECLARATIONS else ""
        self._words = set(Path(name).stem.removeprefix("test_").split("_")) | set(Path(name).parent.name.split("_"))
        self._tests = measured["tests"]
        self._reached = measured["reached"]
        #: Lines of the project that each test runs.
        self._sizes = [0] * len(self._tests)
        for reached in self._reached.values():
            for mask, lines in reached["lines"]:
                for test in _bits(int(mask, 16)):
                    self._sizes[test] += len(lines)

    def imported(self, path: str) -> list[int]:
        """The lines of a source file that its import runs."""
        lines: list[int] = self._reached.get(path, {}).get("imported", [])
        return lines

    def tests(self, mutation: Mutation, ignored: set[int], near: set[int]) -> Iterator[Test]:
        """The tests of this file that reach a mutation's file, ordered by what they reach of it but for ignored lines.

        First those that run the line, or one of `near`, then those that run its function, its class, anything of its
        file; within these those whose file bears its module's name; then those that run little else, the quick ones
        first.
        """
        reached = self._reached.get(mutation.path)
        if reached is None:
            return
        tiers = [len(_TIERS)] * len(self._tests)
        here = [0] * len(self._tests)
        for mask, all_lines in reached["lines"]:
            found = [(line, 0 if line in near else _tier(mutation, reached["scopes"], line)) for line in all_lines]
            lines = [line for line, tier in found if line not in ignored or (tier < 2 and not mutation.imported)]
            if not lines:
                continue
            tier = min(tier for line, tier in found if line in lines)
            for test in _bits(int(mask, 16)):
                tiers[test] = min(tiers[test], tier)
                here[test] += len(lines)
        similarity = self._similarity(mutation)
        # What an import makes, tests may read without running a line.
        reads = mutation.imported and (self._declarations in Path(mutation.path).parts or self._bears_name(mutation))
        for number, test in enumerate(self._tests):
            if reads:
                tiers[number] = 0
            elif not here[number]:
                continue
            if test["passed"]:
                focus, work = here[number] / max(1, self._sizes[number]), test["work"]
                order = (tiers[number], -similarity, bisect(_QUICK, work), -focus, work)
                yield Test(test["name"], test["clock"], work, order)

    def namesakes(self, mutation: Mutation) -> Iterator[Test]:
        """The tests of this file if it bears the name of a mutation's module or folder, the quick ones first.

        And before all others those whose case is the module: they read its source.
        """
        similarity, stem = self._similarity(mutation), Path(mutation.path).stem
        for test in self._tests:
            of_module = test["name"].endswith((f"[{stem}]", f"[async_{stem}]"))
            if test["passed"] and (similarity or of_module):
                tier = 0 if of_module else len(_TIERS)
                order = (tier, -similarity, bisect(_QUICK, test["work"]), 0.0, test["work"])
                yield Test(test["name"], test["clock"], test["work"], order)

    def _bears_name(self, mutation: Mutation) -> bool:
        """Whether all words of a mutation's module are in the names of this file and its folder."""
        return {*Path(mutation.path).stem.split("_")} <= self._words

    def _similarity(self, mutation: Mutation) -> int:
        """The number of words that the names of this file and its folder share with those of a mutation's."""
        path = Path(mutation.path)
        return len(self._words & ({*path.stem.split("_"), *path.parent.name.split("_")} - {""}))


_TIERS = ("line", "function", "class", "file")
#: Cases of one test that are tried before the others' further ones: so many, or what is done in so many seconds.
_CASES = (2, 10)
_CASES_SECONDS = 0.25


#: What a word counts that the file of tests shares with the mutation's file.
_OF_THE_FILE = 2.0


def _ranked(test: Test, similarity: float) -> Test:
    """The test where its name puts it among those that come as near."""
    tier, shared, *rest = test.order
    return replace(test, order=(tier, _OF_THE_FILE * shared - round(similarity, 3), *rest))


def _cases_apart(tests: list[Test]) -> list[Test]:
    """The tests, within a tier first some cases of each: hundreds of one are mostly killed by the first, or by none."""
    seen: Counter[str] = Counter()
    seconds: dict[str, float] = defaultdict(float)
    keys = {}
    for test in tests:
        name = test.name.partition("[")[0]
        seconds[name] += test.work
        few = seconds[name] <= _CASES_SECONDS
        keys[test.name] = (test.tier, 0 if few else bisect(_CASES, seen[name]))
        seen[name] += 1
    return sorted(tests, key=lambda test: keys[test.name])


def used_at(mutation: Mutation, source: bytes) -> set[int]:
    """The lines that use what a mutation defines, where it is run by an import.

    It is a constant, an option of a class, or a default of a function.
    """
    if not mutation.imported:
        return set()
    tree = ast.parse(source)
    names, lines = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.lineno <= mutation.line <= (node.end_lineno or 0):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            here = {name for name, default in _defaults(node.args) if _within(mutation, default)}
            lines |= {each.lineno for each in ast.walk(node) if isinstance(each, ast.Name) and each.id in here}
    return lines | {
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and node.id in names) or (isinstance(node, ast.Attribute) and node.attr in names)
    }


def _defaults(arguments: ast.arguments) -> Iterator[tuple[str, ast.expr]]:
    places = [*arguments.posonlyargs, *arguments.args]
    for argument, default in zip(reversed(places), reversed(arguments.defaults), strict=False):
        yield argument.arg, default
    for argument, named in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if named is not None:
            yield argument.arg, named


def _within(mutation: Mutation, node: ast.expr) -> bool:
    end = node.end_lineno or 0, node.end_col_offset or 0
    return (node.lineno, node.col_offset) <= (mutation.line, mutation.column) < end


def said(mutation: Mutation, source: bytes) -> set[str]:
    """The words of a mutation's lines, and of what they are part of."""
    first, last = mutation.lines
    lines = source.decode().splitlines()[first - 1 : last]
    return _words(" ".join([mutation.path, mutation.scope, *lines]))


def _words(text: str) -> set[str]:
    """The words of names, without what they end in: `_stateful_layers` and `test_a_stateful_layer` share two."""
    parts = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", text)
    return {re.sub(r"(ies|ing|ed|es|s|e|y)$", "", part.lower()) for part in parts if len(part) > 2}


def _tier(mutation: Mutation, scopes: dict[str, tuple[int, int]], line: int) -> int:
    """How near a line that a test ran is to a mutation. Lines of a function are counted from its first."""
    first, last = mutation.lines
    known = scopes.get(mutation.scope)
    if known and mutation.scope and known[0] < line <= known[1]:
        return 0 if first <= line - known[0] + mutation.scope_line <= last else 1
    outer = mutation.scope.split(".")[0]
    around = scopes.get(outer)
    return 2 if outer and around and around[0] <= line <= around[1] else 3


@cache
def scopes(source: bytes) -> dict[str, tuple[int, int]]:
    """The first and last line of each function and class of a file."""
    found: dict[str, tuple[int, int]] = {}

    def walk(node: ast.AST, outer: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = outer
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{outer}.{child.name}" if outer else child.name
                found[name] = (child.lineno, child.end_lineno or child.lineno)
            walk(child, name)

    walk(ast.parse(source), "")
    return found


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def _flat(file: str) -> str:
    return file.replace("/", "-")
