"""Metrics of the server's processes, named as all Prometheus clients name them, and of its build."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Info
from prometheus_client.core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

#: What is counted for each process and adds up. Start and limit are the first process's.
_SUMMED = frozenset({"process_cpu_seconds", "process_virtual_memory_bytes", "process_open_fds"})
_RESIDENT = "process_resident_memory_bytes"


def register_build_info(registry: CollectorRegistry, version: str) -> None:
    """Adds `layerserve_build_info`, which is always 1 and has the version as a label."""
    Info("layerserve_build", "Version of the server.", registry=registry).info({"version": version})


class ProcessMetrics(Collector):
    """`process_*` of this process and its workers together, read from /proc; nothing where there is none.

    Memory that processes share, as the weights and libraries of workers are, counts once: of several processes the
    resident memory is the sum of their proportional set sizes.
    """

    def __init__(self, registry: CollectorRegistry, workers: Callable[[], Sequence[int]], proc: str = "/proc") -> None:
        """`workers` gives the ids of the processes that belong to this one, when the metrics are read."""
        self._workers = workers
        self._proc = proc
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Called by the registry, when somebody looks."""
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
        """A process's resident memory, each page divided by those that have it; 0 of one that ended."""
        try:
            lines = Path(self._proc, pid, "smaps_rollup").read_text().splitlines()
        except OSError:
            return 0.0
        return 1024.0 * next((float(line.split()[1]) for line in lines if line.startswith("Pss:")), 0.0)


def _value(family: Metric) -> float:
    return float(family.samples[0].value)


def _set(family: Metric, value: float) -> None:
    family.samples = [family.samples[0]._replace(value=value)]
