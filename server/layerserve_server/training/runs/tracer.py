"""What makes traces of calls and of the runs that they began. The core has none."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from layerserve_server.observability.telemetry import CallTracer
from layerserve_server.training.runs.run import Run


class Tracer(CallTracer, Protocol):
    """Makes traces of calls and of runs. A run has a span if its call did (see `transport.call.Trace.begin_run`)."""

    def run_variables(self, folder: Path) -> dict[str, str]:
        """Returns the variables by which the process of a run in this folder gets its span; empty if it has none."""

    def run_ended(self, run: Run) -> None:
        """Exports the span of a run that has ended, if it has one."""
