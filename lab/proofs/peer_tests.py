"""Runs a peer's file of unittest, for a Python with its packages: peer_tests.py FILE RESULTS [LEFT_OUT ...].

Writes a JSON object to RESULTS: by the name of each test "ok", or its error. Tests named LEFT_OUT don't run. If the
variable PEER_BEFORE_EACH has an address, it is posted to before each test.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import unittest
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

found: dict[str, str] = {}


class Results(unittest.TextTestResult):
    """Notes the outcome of each test."""

    def _note(self, test: Any, error: tuple[type[BaseException], BaseException, TracebackType] | None) -> None:
        name = test.id().rpartition(".")[2]
        lines = str(error[1]).strip().splitlines() if error else []
        text = f"{error[0].__name__}: {' '.join(lines)}"[:400] if error else "ok"
        if found.get(name, "ok") == "ok":
            found[name] = text

    def startTest(self, test: Any) -> None:  # noqa: N802
        if address := os.environ.get("PEER_BEFORE_EACH"):
            urllib.request.urlopen(urllib.request.Request(address, method="POST")).close()
        super().startTest(test)

    def addSuccess(self, test: Any) -> None:  # noqa: N802
        super().addSuccess(test)
        self._note(test, None)

    def addError(self, test: Any, error: Any) -> None:  # noqa: N802
        super().addError(test, error)
        self._note(test, error)

    def addFailure(self, test: Any, error: Any) -> None:  # noqa: N802
        super().addFailure(test, error)
        self._note(test, error)

    def addSubTest(self, test: Any, subtest: Any, error: Any) -> None:  # noqa: N802
        super().addSubTest(test, subtest, error)
        if error is not None:
            self._note(test, error)

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        super().addSkip(test, reason)
        found[test.id().rpartition(".")[2]] = f"skipped: {reason}"


path, results = map(Path, sys.argv[1:3])
left_out = set(sys.argv[3:])
sys.argv = [str(path)]
spec = importlib.util.spec_from_file_location(path.stem, path)
assert spec is not None
assert spec.loader is not None
module = importlib.util.module_from_spec(spec)
sys.modules[path.stem] = module
spec.loader.exec_module(module)
if "absl.flags" in sys.modules:
    # As TensorFlow's main function does.
    sys.modules["absl.flags"].FLAGS(sys.argv)
suite = unittest.defaultTestLoader.loadTestsFromModule(module)
for cases in suite:
    cases._tests = [test for test in cases if test.id().rpartition(".")[2] not in left_out]  # type: ignore[attr-defined]
unittest.TextTestRunner(resultclass=Results, verbosity=2).run(suite)
results.write_text(json.dumps(found))
