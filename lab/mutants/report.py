"""What came of the mutants: a table by room, and each survivor."""

from __future__ import annotations

import difflib
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mutations import Mutation
from sampling import room_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


TIMEOUT = "timeout of "


@dataclass
class Result:
    """What came of one mutant."""

    mutation: Mutation
    tests_known: int = 0
    tests_run: set[str] = field(default_factory=set)
    seconds: float = 0.0
    #: The test, or `timeout of` the test.
    killed_by: str = ""
    #: Tests that failed, and fail without the mutant too.
    flaky: list[str] = field(default_factory=list)
    output: str = ""
    #: Why nothing could notice a survivor; empty where something should.
    reason: str = ""

    @property
    def killed(self) -> bool:
        return bool(self.killed_by)

    @property
    def timeout(self) -> bool:
        return self.killed_by.startswith(TIMEOUT)

    @property
    def survived(self) -> bool:
        return not self.killed

    def line(self) -> str:
        """The result in one line."""
        if self.killed:
            ending = f"killed by {self.killed_by}"
        else:
            tried = f"{len(self.tests_run)} of {self.tests_known} tests"
            ending = f"SURVIVED {tried}" + (" (equivalent)" if self.reason else "")
        flaky = "".join(f"; fails without it too: {name}" for name in self.flaky)
        return f"{self.mutation.name} {ending}, {self.seconds:.0f} s{flaky}"

    def explained(self, root: Path) -> str:
        """The result with the edit."""
        reason = f"\nEquivalent: {self.reason}\n" if self.reason else ""
        return f"### {self.line()}\n{reason}\n```diff\n{difference(root, self.mutation)}\n```\n"


def difference(root: Path, mutation: Mutation) -> str:
    """The changed lines."""
    source = (root / mutation.path).read_bytes()
    lines = (each.decode().splitlines() for each in (source, mutation.apply(source)))
    return "\n".join(list(difflib.unified_diff(*lines, n=1, lineterm=""))[2:])


class Results:
    """The results of a run, and from earlier ones the mutants that were killed."""

    def __init__(self, file: Path, root: Path) -> None:
        self.added = 0
        self._file = file
        self._root = root
        self._results: list[Result] = []
        self._killed: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}

    def take_killed(self, mutations: Sequence[Mutation]) -> list[Mutation]:
        """Takes the results of mutants that an earlier run killed, in this very code; gives the others."""
        for mutation in mutations:
            if killed_by := self._killed.get(self._code(mutation), ""):
                self._results.append(Result(mutation, killed_by=killed_by))
        taken = {result.mutation for result in self._results}
        return [mutation for mutation in mutations if mutation not in taken]

    def survivors(self) -> list[Result]:
        """The results of mutants that are not killed so far, and that something should notice."""
        return [result for result in self._results if result.survived and not result.reason]

    def add(self, result: Result) -> None:
        """Adds the result of a mutant, and stores it."""
        self.added += 1
        self._results.append(result)
        self.store(result)

    def store(self, result: Result) -> None:
        """Stores that a mutant was killed, for runs with `--resume`."""
        if result.killed:
            self._killed[self._code(result.mutation)] = result.killed_by
            self._file.write_text(json.dumps(dict(self._killed)))

    def text(self) -> str:
        """The table by room, and each survivor."""
        results = sorted(self._results, key=lambda result: result.mutation.name)
        survivors = (result.explained(self._root) for result in results if result.survived)
        return "\n".join([table(results), "", *survivors])

    def _code(self, mutation: Mutation) -> str:
        changed = mutation.apply((self._root / mutation.path).read_bytes())
        return f"{mutation.name} {hashlib.sha256(changed).hexdigest()[:16]}"


def table(results: list[Result]) -> str:
    """How many were killed, by room; equivalent ones aren't counted in the share."""
    rooms: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        rooms[room_of(result.mutation.path)].append(result)
    rows = ["| room | mutants | killed | of these by a timeout | survived | equivalent | killed, % |"]
    rows.append("|---|---|---|---|---|---|---|")
    rows += [_row(room, found) for room, found in sorted(rooms.items())]
    rows.append(_row("all", results))
    return "\n".join(rows)


def _row(name: str, results: list[Result]) -> str:
    killed = sum(result.killed for result in results)
    timeouts = sum(result.timeout for result in results)
    equivalent = sum(bool(result.reason) for result in results)
    survived = len(results) - killed - equivalent
    share = 100 * killed / max(1, len(results) - equivalent)
    return f"| {name} | {len(results)} | {killed} | {timeouts} | {survived} | {equivalent} | {share:.0f} |"


class Equivalents:
    """The mutants that nothing could notice, each with its reason; found by the text of their lines."""

    def __init__(self, file: Path, root: Path) -> None:
        self._root = root
        self.listed = tomllib.loads(file.read_text()).get("mutant", []) if file.exists() else []

    def reason(self, mutation: Mutation) -> str:
        """Why nothing could notice it, or ""."""
        lines = difference(self._root, mutation).splitlines()
        before, after = ("\n".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
        for listed in self.listed:
            if listed.get("within", mutation.scope) != mutation.scope:
                continue
            if (listed["file"], listed["before"].strip(), listed["after"].strip()) == (mutation.path, before, after):
                reason: str = listed["reason"]
                return reason
        return ""
