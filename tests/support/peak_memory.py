"""The memory that something takes at most, as Linux counts it.

`tracemalloc.stop` may crash a process in which threads of C libraries allocate meanwhile, such as grpcio's (before
Python 3.12.9).
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

PROCESS = Path("/proc/self")


class PeakMemory:
    """Measures how far the resident memory of this process grows within a `with` block."""

    def __enter__(self) -> PeakMemory:
        (PROCESS / "clear_refs").write_text("5")
        self._before = _memory("VmRSS")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        #: In bytes.
        self.growth = _memory("VmHWM") - self._before


def _memory(what: str) -> int:
    lines = (PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))
