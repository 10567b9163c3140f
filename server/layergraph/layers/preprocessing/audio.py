"""Spectrograms (keras.layers.STFTSpectrogram, MelSpectrogram)."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from layergraph.config.options import boolean, nonnegative, number, one_of, option, optional, positive_int
from layergraph.errors import ConfigError, DataError, GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.initializers import STFT
from layergraph.layers.spatial import data_format, same_padding


def _window(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    return [number(item) for item in np.asarray(value).tolist()]


class STFTSpectrogram(Layer):
    """Short-time Fourier transform by convolutions (keras.layers.STFTSpectrogram).

    Input (rows, samples, channels), output (rows, frames, channels * frequencies), or with `expand_dims`
    (rows, frames, frequencies, channels); with data_format='channels_first' the channels are axis 1.

    mode           log, magnitude, psd, real, imag, angle, or stft: real and imaginary parts
    frame_length   number of samples of a frame; `frame_step` is the distance of two frames in samples, by default half
                   a frame
    fft_length     length of the transform in samples, by default the next power of two
    window, periodic, scaling   as in keras.initializers.STFT
    """

    mode: str = option(one_of("log", "magnitude", "psd", "real", "imag", "angle", "stft"), default="log")
    frame_length: int = option(positive_int, default=256)
    frame_step: int | None = option(optional(positive_int), default=None)
    fft_length: int | None = option(optional(positive_int), default=None)
    window: Any = option(_window, default="hann")
    periodic: bool = option(boolean, default=False)
    scaling: str | None = option(optional(one_of("density", "spectrum")), default="density")
    padding: str = option(one_of("valid", "same"), default="valid")
    expand_dims: bool = option(boolean, default=False)
    data_format: str = option(data_format, default=None)

    def setup(self) -> None:
        """Raises ConfigError for inconsistent lengths."""
        self._step = self.frame_step or max(1, self.frame_length // 2)
        self._fft_length = self.fft_length or 2 ** math.ceil(math.log2(self.frame_length))
        if self._step > self.frame_length:
            raise ConfigError(
                f"STFTSpectrogram: option 'frame_step' is {self._step}, expected at most {self.frame_length}"
            )
        if self._fft_length < self.frame_length:
            raise ConfigError(
                f"STFTSpectrogram: option 'fft_length' is {self.fft_length}, expected at least {self.frame_length}"
            )
        self._initializers = {
            side: STFT(side, self.window, self.scaling, self.periodic)
            for side, other in (("real", "imag"), ("imag", "real"))
            if self.mode != other
        }

    def build(self, input_shape: Any) -> None:
        """Creates the kernels. Raises GraphError unless inputs are (rows, samples, channels)."""
        if len(input_shape) != 3:
            raise GraphError(
                f"layer '{self.name}' (STFTSpectrogram): got shape {input_shape}, expected (rows, samples, channels)"
            )
        for side, initializer in self._initializers.items():
            self.add_weight(f"{side}_kernel", (self.frame_length, 1, self._fft_length // 2 + 1), initializer)

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        """Computes the spectrogram. Raises DataError for fewer samples than a frame."""
        first = self.data_format == "channels_first"
        x = inputs if first else inputs.movedim(-1, 1)  # (rows, channels, samples)
        sides = {side: self._transformed(x, getattr(w, f"{side}_kernel")) for side in self._initializers}
        y = self._in_mode(sides)  # (rows, channels, frequencies, frames)
        if self.expand_dims:
            return y.transpose(2, 3) if first else y.permute(0, 3, 2, 1)
        y = y.flatten(1, 2)
        return y if first else y.transpose(1, 2)

    def _transformed(self, x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        rows, channels, samples = x.shape
        if self.padding == "same":
            x = functional.pad(x, same_padding(samples, self.frame_length, self._step))
        elif samples < self.frame_length:
            raise DataError(f"got {samples} samples, expected at least one frame of {self.frame_length}")
        flat = x.reshape(rows * channels, 1, x.shape[-1])
        # Keras's kernels are (frame, 1, frequencies), torch's (frequencies, 1, frame).
        made = functional.conv1d(flat, kernel.permute(2, 1, 0).to(flat.dtype), stride=self._step)
        return made.reshape(rows, channels, *made.shape[1:])

    def _in_mode(self, sides: dict[str, torch.Tensor]) -> torch.Tensor:
        if self.mode in ("real", "imag"):
            return sides[self.mode]
        real, imag = sides["real"], sides["imag"]
        if self.mode == "angle":
            return torch.atan2(imag, real)
        if self.mode == "stft":
            return torch.cat([real, imag], 2)
        power = real.square() + imag.square()
        if self.mode == "psd":
            # One-sided spectrum: all frequencies but the lowest and the highest also count for the negative one.
            return power + functional.pad(power[:, :, 1:-1], (0, 0, 1, 1))
        magnitude = power.clamp(min=1e-7).sqrt()
        return magnitude if self.mode == "magnitude" else magnitude.clamp(min=1e-7).log()


class MelSpectrogram(Layer):
    """Mel-scaled power spectrogram (keras.layers.MelSpectrogram). (..., samples) -> (..., num_mel_bins, frames).

    fft_length, sequence_stride, sequence_length, window   options of the short-time Fourier transform, in samples
    sampling_rate, num_mel_bins, min_freq, max_freq        options of the mel scale, frequencies in hertz
    power_to_db, top_db, min_power, ref_power              decibels, at most `top_db` below the maximum of all rows
    mag_exp                                                exponent of the magnitude: 1 is energy, 2 is power
    """

    fft_length: int = option(positive_int, default=2048)
    sequence_stride: int = option(positive_int, default=512)
    sequence_length: int | None = option(optional(positive_int), default=None)
    window: Any = option(_window, default="hann")
    sampling_rate: float = option(nonnegative, default=16000)
    num_mel_bins: int = option(positive_int, default=128)
    min_freq: float = option(nonnegative, default=20.0)
    max_freq: float | None = option(optional(nonnegative), default=None)
    power_to_db: bool = option(boolean, default=True)
    top_db: float = option(number, default=80.0)
    mag_exp: float = option(number, default=2.0)
    min_power: float = option(nonnegative, default=1e-10)
    ref_power: float = option(number, default=1.0)

    def setup(self) -> None:
        """Raises ConfigError for inconsistent lengths or an unknown window."""
        self.sequence_length = self.sequence_length or self.fft_length
        self.max_freq = self.max_freq or int(self.sampling_rate / 2)
        if self.sequence_length > self.fft_length:
            length = self.sequence_length
            raise ConfigError(
                f"MelSpectrogram: option 'sequence_length' is {length}, expected at most {self.fft_length}"
            )
        if isinstance(self.window, str) and self.window not in ("hann", "hamming"):
            raise ConfigError(
                f"MelSpectrogram: option 'window' is '{self.window}', expected 'hann', 'hamming' or values"
            )
        if isinstance(self.window, list) and len(self.window) != self.sequence_length:
            raise ConfigError(
                f"MelSpectrogram: option 'window' has {len(self.window)} values, expected {self.sequence_length}"
            )

    @property
    def rows_are_independent(self) -> bool:
        """False with `power_to_db`: the lower limit depends on the maximum of all rows."""
        return not self.power_to_db

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        """Computes the spectrogram. Raises DataError for too few samples."""
        dtype = torch.float64 if self.compute_dtype == "float64" else torch.float32
        x = inputs.to(dtype)
        if x.shape[-1] <= self.fft_length // 2:
            raise DataError(f"got {x.shape[-1]} samples, expected more than {self.fft_length // 2}, half of fft_length")
        flat = x.reshape(-1, x.shape[-1])
        spectrum = torch.stft(
            flat,
            self.fft_length,
            self.sequence_stride,
            self.sequence_length,
            self._window_values(dtype, x.device),
            return_complex=True,
        )
        power = spectrum.abs().pow(self.mag_exp)  # (rows, frequencies, frames)
        matrix = _mel_matrix(
            self.num_mel_bins, power.shape[1], self.sampling_rate, self.min_freq, float(self.max_freq or 0)
        )
        mel = torch.matmul(matrix.to(x.device, dtype).t(), power)
        if self.power_to_db:
            mel = self._decibels(mel)
        return mel.reshape(*x.shape[:-1], *mel.shape[1:]).to(torch_dtype(self.compute_dtype))

    def _window_values(self, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        length = int(self.sequence_length or 0)
        if self.window is None:
            return torch.ones(length, dtype=dtype, device=device)
        if isinstance(self.window, str):
            made = torch.hann_window if self.window == "hann" else torch.hamming_window
            return made(length, periodic=True, dtype=dtype, device=device)
        return torch.tensor(self.window, dtype=dtype, device=device)

    def _decibels(self, power: torch.Tensor) -> torch.Tensor:
        decibels = 10.0 * torch.log10(power.clamp(min=self.min_power))
        decibels = decibels - 10.0 * math.log10(max(abs(self.ref_power), self.min_power))
        return torch.maximum(decibels, decibels.max() - self.top_db)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # An inference tensor couldn't be used in training later.
def _mel_matrix(bins: int, frequencies: int, rate: float, lowest: float, highest: float) -> torch.Tensor:
    """Returns the weight of each frequency in each mel bin: (frequencies, bins), in triangles of height 1.

    HTK's mel scale is 1127 * log(1 + f / 700). As in keras.layers.MelSpectrogram, the lowest frequency has weight 0.
    """

    # In float32 and in Keras's order: narrow triangles are differences of large numbers, whose errors decibels amplify.
    def mel(hertz: torch.Tensor) -> torch.Tensor:
        return 1127.0 * torch.log(1.0 + hertz / 700.0)

    def evenly(first: torch.Tensor, last: torch.Tensor, count: int) -> torch.Tensor:
        return first + torch.arange(count, dtype=torch.float32) / (count - 1) * (last - first)

    places = mel(evenly(torch.tensor(0.0), torch.tensor(rate) / 2.0, frequencies)[1:])[:, None]
    edges = evenly(mel(torch.tensor(lowest)), mel(torch.tensor(highest)), bins + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    triangles = torch.minimum((places - left) / (centre - left), (right - places) / (right - centre)).clamp(min=0)
    return functional.pad(triangles, (0, 0, 1, 0))


LAYERS: dict[str, type[Layer]] = {
    "MelSpectrogram": MelSpectrogram,
    "STFTSpectrogram": STFTSpectrogram,
}
