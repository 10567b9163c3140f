"""One mutant against the tests that reach it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mirror import Mirror
from mutations import Mutation
from reach import Killers, Reach, Test
from report import TIMEOUT, Result
from running import EXTRA_SECONDS, SLOWER

#: Most mutants fail the first tests tried: those are run first, since reading files of tests takes seconds too.
FIRST_SECONDS, FIRST_FILES = 5.0, 3
MEASURE_SECONDS = 1800.0


class Warm:
    """A warm process in a mirror of its own."""

    def __init__(self, mirror: Mirror, root: Path) -> None:
        self.mirror = mirror
        self._process = subprocess.Popen(
            [sys.executable, str(root / "lab" / "mutants" / "warm.py")],
            cwd=mirror.path, env=mirror.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def measure(self, file: str) -> dict[str, Any] | None:
        """What a file of tests reaches; None where that can't be found."""
        reply = self._ask({"measure": file, "seconds": MEASURE_SECONDS})
        if reply["reply"] is None:
            print(reply["output"], file=sys.stderr)
        found: dict[str, Any] | None = reply["reply"]
        return found

    def run(self, tests: list[Test]) -> dict[str, Any]:
        """Runs tests until one fails."""
        seconds = 2 * EXTRA_SECONDS + SLOWER * sum(test.clock for test in tests)
        return self._ask({"tests": {test.name: test.clock for test in tests}, "seconds": seconds})

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        reply: dict[str, Any] = json.loads(self._process.stdout.readline())
        return reply

    def close(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.wait()


class Trial:
    """Tries mutants in one warm process."""

    def __init__(self, warm: Warm, reach: Reach, killers: Killers, budget: float) -> None:
        self._warm = warm
        self._reach = reach
        self._killers = killers
        self._budget = budget

    def run(self, result: Result) -> None:
        """Runs the tests that reach a mutation, but not again those it has survived, as far as the budget goes.

        Ends with the first that fails.
        """
        mutation = result.mutation
        tests = self._killers.first(mutation, self._reach.tests(mutation))
        result.tests_known = len(tests)
        tests = [test for test in tests if test.name not in result.tests_run]
        self._warm.mirror.put(mutation)
        try:
            for part in _parts(tests, self._budget):
                while not result.killed and part:
                    reply = self._warm.run(part)
                    result.seconds += reply["took"]
                    part = self._judge(result, mutation, part, reply)
        finally:
            self._warm.mirror.restore(mutation)
        self._killers.keep(mutation, result.killed_by.removeprefix(TIMEOUT))

    def _judge(self, result: Result, mutation: Mutation, part: list[Test], reply: dict[str, Any]) -> list[Test]:
        """Notes in the result how tests ended, and gives those that are still to be run."""
        failed = reply["reply"] and reply["reply"]["failed"]
        if reply["timeout"] or "+++ Timeout +++" in reply["output"]:
            result.killed_by = TIMEOUT + (reply["last"] or "import")
        elif failed is None:
            result.killed_by = f"{reply['last'] or 'import'}, which ends the process"
        elif failed and self._fails_anyway(mutation, part, failed):
            result.flaky.append(failed)
            return [] if failed == "import" else [test for test in part if test.name != failed]
        else:
            result.killed_by = failed
        result.tests_run |= {test.name for test in part}
        result.output = reply["output"] if result.killed else ""
        return []

    def _fails_anyway(self, mutation: Mutation, part: list[Test], failed: str) -> bool:
        """Whether a test, or the import of the tests, fails without the mutant as well."""
        one_per_file = {test.name.split("::")[0]: test for test in part}.values()
        again = [test for test in part if test.name == failed] or list(one_per_file)
        self._warm.mirror.restore(mutation)
        reply = self._warm.run(again)
        self._warm.mirror.put(mutation)
        return bool(reply["reply"] != {"failed": ""})


def _parts(tests: list[Test], budget: float) -> Iterator[list[Test]]:
    """The test that killed it last, then the first few, then the others as far as the budget goes.

    Those that reach less than the nearest ones get a third of it.
    """
    nearest = min((test.tier for test in tests if test.tier >= 0), default=0)
    if tests and tests[0].tier < 0:
        yield [tests.pop(0)]
    first: list[Test] = []
    rest: list[Test] = []
    files: set[str] = set()
    seconds = 0.0
    for test in tests:
        seconds += test.work
        files.add(test.name.split("::")[0])
        if not rest and (not first or (seconds <= FIRST_SECONDS and len(files) <= FIRST_FILES)):
            first.append(test)
        elif seconds <= (budget if test.tier == nearest else budget / 3):
            rest.append(test)
        else:
            break
    yield first
    yield rest
