"""Which lines of which functions each test of a file runs, and how long it takes: the work of a fork of `warm`."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import coverage
import pytest
from mirror import SOURCES
from running import Say, options

#: In the environment of a test's child processes: the name of the test.
_TEST = "MUTANTS_TEST"


def measure(file: str, work: Path, say: Say) -> dict[str, Any]:
    """Runs a file of tests under coverage.

    The reply has `tests` (see `_Times.tests`) and `reached`: for each source file its lines, and for each
    line the tests as the bits of a number. Lines run by an import are `imported`.
    """
    settings = work / "coverage.ini"
    sources = "\n    ".join(str(Path.cwd() / source) for source in SOURCES)
    (data := work / "lines").mkdir()
    run = f"parallel = true\nsigterm = true\ndata_file = {data}/of\ncontext = ${{{_TEST}-}}\nsource =\n    {sources}\n"
    settings.write_text(f"[run]\n{run}")
    # Child processes measure themselves.
    (work / "sitecustomize.py").write_text("import coverage\ncoverage.process_startup()\n")
    os.environ["COVERAGE_PROCESS_START"] = str(settings)
    os.environ["PYTHONPATH"] += os.pathsep + str(work)
    measured = coverage.Coverage(config_file=str(settings))
    measured.start()
    times = _Times(measured, say)
    pytest.main([file, *options(work)], plugins=[times])
    measured.stop()
    measured.save()
    together = coverage.Coverage(config_file=str(settings))
    together.combine([str(data)])
    return {"tests": times.tests(), "reached": _reached(together.get_data(), list(times.seconds))}


class _Times:
    """Gives each test its context of coverage, and notes how long it takes."""

    def __init__(self, measured: coverage.Coverage, say: Say) -> None:
        #: Of each test, in seconds: on the clock, and of the processor, child processes that have ended included.
        self.seconds: dict[str, tuple[float, float]] = {}
        self._measured = measured
        self._say = say
        self._failed: set[str] = set()

    def tests(self) -> list[dict[str, Any]]:
        """What is kept of each test."""
        return [
            {"name": name, "clock": round(clock, 3), "work": round(work, 3), "passed": name not in self._failed}
            for name, (clock, work) in self.seconds.items()
        ]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self._say({"test": item.nodeid})
        number = str(len(self.seconds))
        os.environ[_TEST] = number
        self._measured.switch_context(number)
        began, worked = time.perf_counter(), sum(os.times()[:4])
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.perf_counter() - began, sum(os.times()[:4]) - worked

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed and not (report.skipped and hasattr(report, "wasxfail")):
            self._failed.add(report.nodeid)


def _reached(data: coverage.CoverageData, tests: list[str]) -> dict[str, Any]:
    reached: dict[str, Any] = {}
    here = Path.cwd()
    # Not templates, which are compiled under their own names.
    for name in filter(lambda name: name.endswith(".py"), data.measured_files()):
        masks: dict[int, int] = defaultdict(int)
        imported = []
        for line, contexts in data.contexts_by_lineno(name).items():
            for context in contexts:
                if context:
                    masks[line] |= 1 << int(context)
                else:
                    imported.append(line)
        path = Path(name).relative_to(here).as_posix()
        by_mask: dict[int, list[int]] = defaultdict(list)
        for line, mask in masks.items():
            by_mask[mask].append(line)
        reached[path] = {"imported": imported, "lines": [(f"{mask:x}", lines) for mask, lines in by_mask.items()]}
    return reached
