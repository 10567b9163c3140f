"""Weights in shared memory: all processes that load a model file map the same pages.

Data that an executor derives from weights, such as packed kernels, isn't shared.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

#: Alignment of weights in the file, in bytes, for vector instructions.
ALIGNMENT = 64


class SharedWeights:
    """A folder in memory (a tmpfs) with a file for the weights of each model file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def adopt(self, model: Any, path: Path) -> None:
        """Replaces a model's weights by shared ones, which it writes unless another process has.

        `path` is the model's file. Has to be called before anything is computed. If there isn't enough shared memory,
        the model keeps its own weights.
        """
        import torch

        weights = [weight for weight in model.weights if isinstance(weight.value, torch.Tensor)]
        offsets, size = [], 0
        for weight in weights:
            offsets.append(size)
            size += -(-weight.value.numel() * weight.value.element_size() // ALIGNMENT) * ALIGNMENT
        file = self._folder / _key(path)
        if not size:
            return
        if not file.exists():
            if shutil.disk_usage(self._folder).free < size:
                logger.warning("not enough shared memory for the weights of %s: %d bytes", path.name, size)
                return
            self._write(file, [_in_order(weight) for weight in weights], offsets, size)
        memory = torch.from_file(str(file), shared=False, size=size, dtype=torch.uint8)
        for weight, offset in zip(weights, offsets, strict=True):
            own = _in_order(weight)
            shared = memory[offset : offset + own.numel() * own.element_size()].view(own.dtype).view(own.shape)
            weight.bind(shared if weight.memory_order is None else shared.permute(_back(weight.memory_order)))

    def _write(self, file: Path, tensors: list[Any], offsets: list[int], size: int) -> None:
        """Writes a file by rename, so that no process maps an incomplete one. Concurrent writers write equal files."""
        import torch

        written = file.with_name(f"{file.name}.{os.getpid()}")
        with written.open("wb") as out:
            out.truncate(size)
            for tensor, offset in zip(tensors, offsets, strict=True):
                out.seek(offset)
                out.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
        written.rename(file)


def _in_order(weight: Any) -> Any:
    """Returns a weight's tensor as a contiguous one, with its axes in memory order."""
    value = weight.value.detach()
    return (value if weight.memory_order is None else value.permute(weight.memory_order)).contiguous()


def _back(order: tuple[int, ...]) -> list[int]:
    return [order.index(axis) for axis in range(len(order))]


def _key(path: Path) -> str:
    """Returns a file name that identifies the content of a model file."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    facts = [(str(file.resolve()), (stat := file.stat()).st_ino, stat.st_size, stat.st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()
