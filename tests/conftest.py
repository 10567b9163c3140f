"""What holds for all tests."""

import gc
import logging
import os
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["given_back"]

# Servers of tests compute on torch, call by call, but for those that test tuning: timing engines takes seconds.
os.environ.setdefault("LAYERSERVE_TUNING_SECONDS", "0")
# Most servers of tests never train: what trains imports torch when it is first needed.
os.environ.setdefault("LAYERSERVE_WARM_TRAINING", "false")
# By default training waits while others need the cores, as all tests do.
os.environ.setdefault("LAYERSERVE_TRAINING_NICE", "0")
# Several processes of tests share the cores: torch's threads that wait busily would keep the others from computing, and
# take a third of the time of tests of layers. The variable is read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(scope="session")
def jobs() -> Iterator[Any]:
    """Processes that take seconds to import torch, and stay for all tests."""
    from shared_jobs import SharedJobs

    made = SharedJobs(keep_warm=True)
    yield made
    made.end()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Excludes modules and collected tests, which stay, from garbage collection: it takes a third of collecting."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        # pytest adds its handlers to each logger that passes nothing on, six times a test. torch has 50 of them.
        for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch")]:
            logging.getLogger(name).propagate = True


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where processes share the tests, takes a file of each folder in turn.

    So files that wait for servers and runs are tested beside those that compute, and none of them is the last.
    """
    if not hasattr(config, "workerinput"):
        return
    folders, turns = Counter[Path](), dict[Path, int]()
    for path in dict.fromkeys(item.path for item in items):
        turns[path] = folders[path.parent]
        folders[path.parent] += 1
    items.sort(key=lambda item: turns[item.path])
