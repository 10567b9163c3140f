"""What tests of servers have in `tests/`: settings of all servers, and processes that import torch once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from shared_jobs import SharedJobs

sys.path.append(str(Path(__file__).parent))
os.environ.setdefault("LAYERSERVE_TRAINING_NICE", "0")


@pytest.fixture(scope="session")
def jobs() -> Iterator[SharedJobs]:
    """Processes that take seconds to import torch, and stay for all tests."""
    made = SharedJobs(keep_warm=True)
    yield made
    made.end()
