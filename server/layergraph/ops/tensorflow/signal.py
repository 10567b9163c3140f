"""TensorFlow functions on signals, with complex spectra (tf.signal)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from layergraph.errors import GraphError
from layergraph.ops.operation import Operation, function_node


def _framed(
    signal: torch.Tensor,
    frame_length: Any,
    frame_step: Any,
    pad_end: bool = False,
    pad_value: float = 0,
    axis: int = -1,
) -> torch.Tensor:
    """tf.signal.frame: windows of an axis, which becomes two axes (windows, frame_length)."""
    length, step = int(frame_length), int(frame_step)
    axis = axis % signal.ndim
    x = signal.movedim(axis, -1)
    if pad_end:
        frames = -(-x.shape[-1] // step)
        x = functional.pad(x, (0, max(0, length + step * (frames - 1) - x.shape[-1])), value=pad_value)
    y = x.unfold(-1, length, step) if x.shape[-1] >= length else x.new_empty((*x.shape[:-1], 0, length))
    return y.movedim((-2, -1), (axis, axis + 1))


def _hann(length: int, like: torch.Tensor) -> torch.Tensor:
    return torch.hann_window(length, periodic=True, dtype=like.dtype, device=like.device)


def _next_power(length: int) -> int:
    return 2 ** math.ceil(math.log2(length)) if length > 1 else 1


def _stft(
    signals: torch.Tensor,
    frame_length: int,
    frame_step: int,
    fft_length: int | None = None,
    window_fn: Any = "hann",
    pad_end: bool = False,
) -> Any:
    """tf.signal.stft. Windows made by a function aren't stored in files; the default is a Hann window."""
    if window_fn not in ("hann", None):
        raise GraphError("window_fn is a function, which is not supported, expected the default or none")
    frames = _framed(signals, frame_length, frame_step, pad_end)
    if window_fn is not None:
        frames = frames * _hann(int(frame_length), frames)
    return torch.fft.rfft(frames, int(fft_length) if fft_length else _next_power(int(frame_length)))


def _overlapped(signal: torch.Tensor, frame_step: Any) -> torch.Tensor:
    """tf.signal.overlap_and_add."""
    count, size = signal.shape[-2:]
    length = int(frame_step) * (count - 1) + size
    flat = signal.reshape(-1, count, size).transpose(1, 2)
    y = functional.fold(flat, (1, length), (1, size), stride=(1, int(frame_step)))
    return y.reshape(*signal.shape[:-2], length)


def _inverse_stft(
    stfts: torch.Tensor, frame_length: int, frame_step: int, fft_length: int | None = None, window_fn: Any = "hann"
) -> torch.Tensor:
    """tf.signal.inverse_stft."""
    if window_fn not in ("hann", None):
        raise GraphError("window_fn is a function, which is not supported, expected the default or none")
    length = int(frame_length)
    frames = torch.fft.irfft(stfts, int(fft_length) if fft_length else _next_power(length))
    frames = functional.pad(frames[..., :length], (0, max(0, length - frames.shape[-1])))
    if window_fn is not None:
        frames = frames * _hann(length, frames)
    return _overlapped(frames, frame_step)


def _cosines(x: torch.Tensor, kind: int = 2, n: int | None = None, axis: int = -1, norm: str | None = None) -> Any:
    """tf.signal.dct of types 2 and 3."""
    if kind not in (2, 3) or axis != -1:
        raise GraphError(f"a discrete cosine transform of type {kind} along axis {axis} is not supported")
    if n is not None:
        x = functional.pad(x[..., :n], (0, max(0, n - x.shape[-1])))
    length = x.shape[-1]
    at = torch.arange(length, dtype=x.dtype, device=x.device)
    if kind == 2:
        table = 2 * torch.cos(math.pi * (2 * at[:, None] + 1) * at / (2 * length))
        scale = torch.full_like(at, math.sqrt(0.5 / length)) if norm == "ortho" else torch.ones_like(at)
        if norm == "ortho":
            scale = torch.where(at == 0, math.sqrt(0.25 / length), scale)
        return x @ table * scale
    if norm == "ortho":
        x = x * torch.where(at == 0, math.sqrt(1 / length), math.sqrt(0.5 / length))
        table = torch.cos(math.pi * at[:, None] * (2 * at + 1) / (2 * length))
        return x @ (table * torch.where(at[:, None] == 0, 1.0, 2.0))
    table = torch.cos(math.pi * at[:, None] * (2 * at + 1) / (2 * length))
    return x @ (table * torch.where(at[:, None] == 0, 1.0, 2.0))


def _dct(x: torch.Tensor, type: int = 2, n: Any = None, axis: int = -1, norm: Any = None) -> Any:
    return _cosines(x, type, n, axis, norm)


def _idct(x: torch.Tensor, type: int = 2, n: Any = None, axis: int = -1, norm: Any = None) -> Any:
    """tf.signal.idct: the DCT of the inverse type."""
    return _cosines(x, {2: 3, 3: 2}.get(type, type), n, axis, norm)


def _mfccs(log_mel_spectrograms: torch.Tensor) -> Any:
    """tf.signal.mfccs_from_log_mel_spectrograms."""
    bins = log_mel_spectrograms.shape[-1]
    return _cosines(log_mel_spectrograms) * (1 / math.sqrt(bins * 2.0))


def _real(transform: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def transformed(x: torch.Tensor, fft_length: Any = None) -> torch.Tensor:
        return transform(x, None if fft_length is None else int(fft_length[0]))

    return transformed


def _shifted(inverse: bool) -> Callable[..., torch.Tensor]:
    def shifted(x: torch.Tensor, axes: Any = None) -> Any:
        dims = axes if axes is None or isinstance(axes, int) else [int(axis) for axis in axes]
        return torch.fft.ifftshift(x, dims) if inverse else torch.fft.fftshift(x, dims)

    return shifted


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "Dct": _dct,
    "Fft": lambda x: torch.fft.fft(x),
    "Fft2d": lambda x: torch.fft.fft2(x),
    "Fftshift": _shifted(inverse=False),
    "Frame": _framed,
    "Idct": _idct,
    "Ifft": lambda x: torch.fft.ifft(x),
    "Ifft2d": lambda x: torch.fft.ifft2(x),
    "Ifftshift": _shifted(inverse=True),
    "InverseStft": _inverse_stft,
    "Irfft": _real(torch.fft.irfft),
    "Mfccs": _mfccs,
    "OverlapAndAdd": _overlapped,
    "Rfft": _real(torch.fft.rfft),
    "Stft": _stft,
}

OPERATIONS: dict[str, type[Operation]] = {
    f"tf>{name}": function_node(name, function) for name, function in _FUNCTIONS.items()
}
