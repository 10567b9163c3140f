"""Fourier transforms on pairs of real and imaginary parts, and complex numbers (keras.ops.math)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from layergraph.config.options import Expected, boolean, integer, list_of, option, optional, positive_int
from layergraph.errors import ConfigError, GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.weights import Weights
from layergraph.ops.operation import Operation, Unary, operation

_MATH = "keras.src.ops.math"


class _Spectral(Operation):
    keras_module = _MATH


def _complex(pair: Any) -> torch.Tensor:
    """A complex tensor of a pair of real and imaginary parts. Raises GraphError if it isn't a pair."""
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise GraphError("got one tensor, expected a pair of real and imaginary parts")
    real, imaginary = pair
    return torch.complex(real, imaginary)


def _pair(x: torch.Tensor) -> list[torch.Tensor]:
    return [x.real, x.imag]


class FFT(_Spectral):
    """keras.ops.fft. Files of Keras 3.0 to 3.3 have an option `axis`, which is always the last axis."""

    axis: int = option(integer, default=-1)

    def forward(self, context: CallContext, w: Weights, x: Any) -> list[torch.Tensor]:
        return _pair(torch.fft.fft(_complex(x), dim=self.axis))


class FFT2(_Spectral):
    """Along the last two axes (keras.ops.fft2)."""

    axes: Any = option(list_of(integer), default=(-2, -1))

    def forward(self, context: CallContext, w: Weights, x: Any) -> list[torch.Tensor]:
        return _pair(torch.fft.fft2(_complex(x), dim=self.axes))


class IFFT2(_Spectral):
    """The inverse transform along the last two axes (keras.ops.ifft2)."""

    def forward(self, context: CallContext, w: Weights, x: Any) -> list[torch.Tensor]:
        return _pair(torch.fft.ifft2(_complex(x)))


class RFFT(_Spectral):
    """The transform of real numbers along the last axis (keras.ops.rfft)."""

    fft_length: int | None = option(optional(positive_int), default=None)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> list[torch.Tensor]:
        return _pair(torch.fft.rfft(x, self.fft_length))


class IRFFT(_Spectral):
    """The inverse transform to real numbers (keras.ops.irfft)."""

    fft_length: int | None = option(optional(positive_int), default=None)

    def forward(self, context: CallContext, w: Weights, x: Any) -> Any:
        return torch.fft.irfft(_complex(x), self.fft_length)


class ExtractSequences(_Spectral):
    """Windows of the last axis (keras.ops.extract_sequences)."""

    sequence_length: int = option(positive_int)
    sequence_stride: int = option(positive_int)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return x.unfold(-1, self.sequence_length, self.sequence_stride)


def _window(value: Any) -> Any:
    """Validator: a window's name, its values, or None."""
    if value is None or isinstance(value, np.ndarray):
        return value
    if isinstance(value, (list, tuple)):
        return np.asarray(value, "float32")
    if value not in ("hann", "hamming"):
        raise Expected("'hann', 'hamming', numbers or None")
    return value


class _ShortTime(_Spectral):
    sequence_length: int = option(positive_int)
    sequence_stride: int = option(positive_int)
    fft_length: int = option(positive_int)
    window: Any = option(_window, default="hann")
    center: bool = option(boolean, default=True)

    def setup(self) -> None:
        """Raises ConfigError for windows longer than the transform."""
        if self.fft_length < self.sequence_length:
            raise ConfigError(f"fft_length is {self.fft_length}, expected at least {self.sequence_length}")

    def window_values(self, like: torch.Tensor) -> torch.Tensor:
        """The values of the window (sequence_length,)."""
        if self.window is None:
            return torch.ones(self.sequence_length, dtype=like.dtype, device=like.device)
        if isinstance(self.window, str):
            made = torch.hann_window if self.window == "hann" else torch.hamming_window
            return made(self.sequence_length, periodic=True, dtype=like.dtype, device=like.device)
        if self.window.shape != (self.sequence_length,):
            raise GraphError(f"window has shape {self.window.shape}, expected ({self.sequence_length},)")
        return torch.as_tensor(self.window, dtype=like.dtype, device=like.device)


class STFT(_ShortTime):
    """The spectrum of each window: (..., windows, fft_length // 2 + 1) (keras.ops.stft)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> list[torch.Tensor]:
        y = torch.stft(
            x.reshape(-1, x.shape[-1]),
            n_fft=self.fft_length,
            hop_length=self.sequence_stride,
            win_length=self.sequence_length,
            window=self.window_values(x),
            center=self.center,
            return_complex=True,
        )
        return _pair(y.transpose(-2, -1).reshape(*x.shape[:-1], y.shape[-1], y.shape[-2]))


class ISTFT(_ShortTime):
    """The signal of these spectra (keras.ops.istft)."""

    sequence_length: int = option(positive_int)
    sequence_stride: int = option(positive_int)
    fft_length: int = option(positive_int)
    length: int | None = option(optional(positive_int), default=None)
    window: Any = option(_window, default="hann")
    center: bool = option(boolean, default=True)

    def forward(self, context: CallContext, w: Weights, x: Any) -> torch.Tensor:
        spectrum = _complex(x)
        plain = self.sequence_length == self.fft_length and self.center and self.window is not None
        # torch.istft reads values to check that the windows cover all timesteps.
        if plain and not spectrum.is_meta:
            return self._by_torch(spectrum)
        frames = torch.fft.irfft(spectrum, self.fft_length)
        if self.window is not None:
            frames = frames * self._inverse_window(frames)
        return self._cut(self._overlapped(frames), frames.shape[-2])

    def _by_torch(self, spectrum: torch.Tensor) -> torch.Tensor:
        y = torch.istft(
            spectrum.reshape(-1, *spectrum.shape[-2:]).transpose(-2, -1),
            n_fft=self.fft_length,
            hop_length=self.sequence_stride,
            win_length=self.sequence_length,
            window=self.window_values(spectrum.real),
            center=self.center,
            length=self.length,
        )
        return y.reshape(*spectrum.shape[:-2], -1)

    def _inverse_window(self, like: torch.Tensor) -> torch.Tensor:
        """The window divided by the sum of squares of all overlapping windows (tf.signal.inverse_stft_window_fn)."""
        before = (self.fft_length - self.sequence_length) // 2
        after = self.fft_length - self.sequence_length - before
        window = functional.pad(self.window_values(like), (before, after))
        overlaps = -(-self.fft_length // self.sequence_stride)
        squares = functional.pad(window.square(), (0, overlaps * self.sequence_stride - self.fft_length))
        total = squares.reshape(overlaps, self.sequence_stride).sum(0).repeat(overlaps)
        return window / total[: self.fft_length]

    def _overlapped(self, frames: torch.Tensor) -> torch.Tensor:
        """The sum of the windows, each shifted by the stride."""
        count, size = frames.shape[-2:]
        length = self.sequence_stride * (count - 1) + size
        flat = frames.reshape(-1, count, size).transpose(1, 2)
        y = functional.fold(flat, (1, length), (1, size), stride=(1, self.sequence_stride))
        return y.reshape(*frames.shape[:-2], length)

    def _cut(self, y: torch.Tensor, count: int) -> torch.Tensor:
        start = self.fft_length // 2 if self.center else 0
        if self.length is not None:
            return y[..., start : start + self.length]
        if self.center:
            return y[..., start : -(self.fft_length // 2)]
        return y[..., : self.fft_length + self.sequence_stride * (count - 1)]


class Polar(Operation):
    """Complex numbers with these absolute values and angles (keras.ops.polar)."""

    keras_module = "keras.src.ops.nn"

    def forward(self, context: CallContext, w: Weights, abs_: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return torch.polar(abs_, angle)


def _imaginary(x: torch.Tensor) -> torch.Tensor:
    return x.imag if x.is_complex() else torch.zeros_like(x)


OPERATIONS: dict[str, type[Operation]] = {
    "ExtractSequences": ExtractSequences,
    "FFT": FFT,
    "FFT2": FFT2,
    "IFFT2": IFFT2,
    "IRFFT": IRFFT,
    "ISTFT": ISTFT,
    "Imag": operation(Unary, "Imag", Operation.keras_module, _imaginary),
    "Polar": Polar,
    "RFFT": RFFT,
    "STFT": STFT,
    "ViewAsComplex": operation(Unary, "ViewAsComplex", _MATH, torch.view_as_complex),
    "ViewAsReal": operation(Unary, "ViewAsReal", _MATH, torch.view_as_real),
}
