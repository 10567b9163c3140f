"""Setup of GPU training: float32 without TF32, and deterministic, so that a resumed run has the same result."""

from __future__ import annotations

import os

import torch


def gpu(name: str) -> torch.device:
    """Sets this process up for a CUDA device and returns it. Raises ValueError if it doesn't exist."""
    check(name)
    # cuBLAS reads it on initialization; without it, matrix products may differ between runs.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    return torch.device(name)


def check(name: str) -> None:
    """Raises ValueError if a CUDA device doesn't exist."""
    index = torch.device(name).index or 0
    count = torch.cuda.device_count()
    if not count:
        raise ValueError(f"training_device: got '{name}', expected 'cpu': torch finds no CUDA device")
    if index >= count:
        raise ValueError(f"training_device: got '{name}', expected one of the {count} CUDA devices, or 'cpu'")
