"""Training on a GPU: with numbers of 32 bits, and alike each time, so that a run that is resumed ends the same."""

from __future__ import annotations

import os

import torch


def gpu(name: str) -> torch.device:
    """The device, with this process set up for it. Raises ValueError where it isn't there."""
    check(name)
    # cuBLAS asks for it when it starts: without, products may differ from one time to the next.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    return torch.device(name)


def check(name: str) -> None:
    """Raises ValueError for a GPU that isn't there."""
    index = torch.device(name).index or 0
    count = torch.cuda.device_count()
    if index >= count:
        raise ValueError(f"training_device: got '{name}', expected one of the {count} CUDA devices, or 'cpu'")
