"""How a run is executed: an error that nothing expects ends its process and the run, and is in the log."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest
from layerserve_server.errors import UnavailableError
from layerserve_server.training.events import Failed
from layerserve_server.training.runs.execution import RunExecution


@pytest.mark.parametrize(
    ("error", "ended", "signals", "logged"),
    [
        (UnavailableError("no process"), Failed("no process", 2, 3, resumable=True), [], 0),
        (ZeroDivisionError("x"), Failed("internal error; see the server's log", 2, 3), [signal.SIGKILL], 1),
    ],
)
def test_a_run_that_can_not_be_executed_has_failed(
    caplog: pytest.LogCaptureFixture, error: Exception, ended: Failed, signals: list[int], logged: int
) -> None:
    sent: list[int] = []
    ends: list[Any] = []
    run: Any = SimpleNamespace(id="r", position=(2, 3), process=SimpleNamespace(signal=sent.append))
    endings: Any = SimpleNamespace(end=lambda run, event: ends.append(event))
    execution = RunExecution(None, endings, None, None, None, (), None)  # type: ignore[arg-type]

    def fails(run: Any) -> None:
        raise error

    execution._launch = fails  # type: ignore[method-assign]
    execution.execute(run, launch=True)
    assert (ends, sent) == ([ended], signals)
    assert [(line.getMessage(), line.run) for line in caplog.records] == (  # type: ignore[attr-defined]
        [("the run failed with an internal error", "r")] * logged
    )
