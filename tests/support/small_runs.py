"""A small model that learns, its data, and what a run left behind."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
from layergraph import load_model
from layerserve.values.tensors import Array
from layerserve_server.training.proc_files import children_of, descendants_of
from layerserve_server.training.run_folder.layout import CHILD_LOCK

SETTINGS: dict[str, Any] = {
    "optimizer": "adam",
    "loss": "categorical_crossentropy",
    "metrics": ["accuracy"],
    "seed": 3,
    "version": 1,
}


def dense_data(rows: int = 256) -> tuple[Array, Array]:
    """Images and classes for the zoo's `dense`; the class is that of the largest of the first ten pixels."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((rows, 64)).astype("float32")
    return x, np.eye(10, dtype="float32")[x[:, :10].argmax(-1)]


def weights(repository: Path, model: str, version: int | None) -> list[Array]:
    """The weights of a version on the disk."""
    return load_model(repository / model / str(version) / "model.keras").get_weights()


def assert_bit_for_bit(got: list[Array], expected: list[Array]) -> None:
    assert len(got) == len(expected)
    for number, (one, other) in enumerate(zip(got, expected, strict=True)):
        assert one.tobytes() == other.tobytes(), f"array {number} differs by {np.max(np.abs(one - other))}"


def training_processes(server: int) -> list[int]:
    """The processes that train for a server, without the workers that they have started."""
    found = [pid for pid in descendants_of(server) if _holds_lock(pid)]
    workers = {child for pid in found for child in children_of(pid)}
    return [pid for pid in found if pid not in workers]


def _holds_lock(pid: int) -> bool:
    for file in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):
            if file.readlink().name == CHILD_LOCK:
                return True
    return False


def kill_training(server: int | None = None) -> None:
    """kill -9 for all that trains."""
    for pid in training_processes(server or os.getpid()):
        os.kill(pid, signal.SIGKILL)
