"""Runs chosen tests in a given order until one fails: the work of a fork of `warm`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

Say = Callable[[dict[str, Any]], None]
#: A test may take so many times as long as when it was measured, and so much more.
SLOWER, EXTRA_SECONDS = 8, 30


def run(tests: Mapping[str, float], work: Path, say: Say) -> dict[str, str]:
    """Runs tests in their order. The reply has `failed`: the first that fails, "" where none does.

    It is "import" where a file of tests can't be imported. `tests` has each test's name and the seconds that it took
    when it was measured.
    """
    chosen = _Chosen(tests, say)
    files = dict.fromkeys(name.split("::")[0] for name in tests)
    code = pytest.main([*files, "-x", *options(work)], plugins=[chosen])
    if not chosen.failed and code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return {"failed": "import"}
    return {"failed": chosen.failed}


def options(work: Path) -> list[str]:
    """Options of pytest for a fork."""
    # What the warm process has imported pytest can't rewrite.
    quiet = [
        "-q",
        "--no-header",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
    ]
    # The thread ends the process even where a test hangs in C; the signal would only ask it.
    return [*quiet, "--timeout-method=thread", f"--basetemp={work / 't'}"]


class _Chosen:
    """Keeps the chosen tests only, in their order; a test that hangs ends the fork."""

    def __init__(self, tests: Mapping[str, float], say: Say) -> None:
        self.failed = ""
        self._tests = tests
        self._say = say

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        place = {name: at for at, name in enumerate(self._tests)}
        items[:] = sorted((item for item in items if item.nodeid in place), key=lambda item: place[item.nodeid])
        for item in items:
            item.own_markers.insert(0, pytest.mark.timeout(SLOWER * self._tests[item.nodeid] + EXTRA_SECONDS).mark)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._say({"test": nodeid})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid
