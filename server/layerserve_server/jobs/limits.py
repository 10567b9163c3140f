"""Limits of a job: time and memory of its process."""

from __future__ import annotations

from dataclasses import dataclass

from layerserve_server.system_memory import available_memory

#: Maximum fraction of the available memory that a job with a model may use.
MEMORY_SHARE = 0.75
#: Memory that a job with a model may always use, in bytes.
MIN_BYTES = 1 << 30
#: Memory per parameter of a model, in bytes: twice that of training (weight, gradient, two slots of an optimizer),
#: since arrays exist in addition to the model's while a file is read.
PARAMETER_BYTES = 32


@dataclass(frozen=True, slots=True)
class JobLimits:
    """Processor time in seconds, and memory in bytes in addition to the parent's; None for no limit of memory.

    `wall_seconds` is the elapsed time after which a job is killed. By default it is longer than `seconds`, as the
    machine may be busy.
    """

    seconds: float
    memory_bytes: int | None
    #: Threads that compute at a time.
    threads: int = 1
    wall_seconds: float = 0.0

    def __post_init__(self) -> None:
        if not self.wall_seconds:
            object.__setattr__(self, "wall_seconds", 2 * self.seconds + 10)

    @property
    def processor_seconds(self) -> float:
        """Time of all threads together, in seconds."""
        return self.seconds * self.threads


def model_limits(seconds: float, memory_bytes: int, parameters: int) -> JobLimits:
    """Returns the limits of a job that loads a model: `memory_bytes` plus its parameters', within available memory."""
    return JobLimits(seconds, within_available(memory_bytes + PARAMETER_BYTES * parameters))


def within_available(memory_bytes: int) -> int:
    """Returns how much of this memory a job may use, in bytes: all of it, unless that leaves the server too little."""
    available = available_memory()
    return memory_bytes if available is None else min(memory_bytes, max(MIN_BYTES, int(MEMORY_SHARE * available)))
