"""Metrics of the server's processes, under the names common to all Prometheus clients, and of its build."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Info
from prometheus_client.core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

#: Metrics that are summed over processes. Start time and limits are those of the first process.
_SUMMED = frozenset({"process_cpu_seconds", "process_virtual_memory_bytes", "process_open_fds"})
_RESIDENT = "process_resident_memory_bytes"


def register_build_info(registry: CollectorRegistry, version: str) -> None:
    """Registers `layerserve_build_info`: always 1, with the version as a label."""
    Info("layerserve_build", "Version of the server.", registry=registry).info({"version": version})


class ProcessMetrics(Collector):
    """Metrics `process_*` of this process and its workers together, read from /proc; none on systems without it.

    Memory shared between processes, such as the workers' weights and libraries, counts once: the resident memory of
    several processes is the sum of their proportional set sizes.
    """

    def __init__(self, registry: CollectorRegistry, workers: Callable[[], Sequence[int]], proc: str = "/proc") -> None:
        """`workers` returns the process ids of the current workers."""
        self._workers = workers
        self._proc = proc
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Returns the metrics. Called by the registry."""
        pids = ["self", *map(str, self._workers())]
        families = {family.name: family for family in self._of("self")}
        for pid in pids[1:]:
            for family in self._of(pid):
                if family.name in _SUMMED and family.name in families:
                    _set(families[family.name], _value(families[family.name]) + _value(family))
        if len(pids) > 1 and _RESIDENT in families:
            _set(families[_RESIDENT], sum(self._proportional_bytes(pid) for pid in pids))
        return families.values()

    def _of(self, pid: str) -> Iterable[Metric]:
        return ProcessCollector(pid=lambda: pid, proc=self._proc, registry=None).collect()

    def _proportional_bytes(self, pid: str) -> float:
        """Returns a process's proportional set size, in bytes: each page divided by its sharers. 0 if it ended."""
        try:
            lines = Path(self._proc, pid, "smaps_rollup").read_text().splitlines()
        except OSError:
            return 0.0
        return 1024.0 * next((float(line.split()[1]) for line in lines if line.startswith("Pss:")), 0.0)


def _value(family: Metric) -> float:
    return float(family.samples[0].value)


def _set(family: Metric, value: float) -> None:
    family.samples = [family.samples[0]._replace(value=value)]
