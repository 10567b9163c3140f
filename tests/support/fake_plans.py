"""A plan that only has inputs, for tests that read requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Spec:
    """One input."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


class Plan:
    """A plan with some inputs."""

    batched = True

    def __init__(self, *specs: Any) -> None:
        self.input_specs = specs
