"""Initializers of weights, with Keras's names and formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import numpy as np
import torch

from layergraph.config.names import snake_case
from layergraph.config.options import (
    Configurable,
    Expected,
    boolean,
    integer,
    list_of,
    number,
    one_of,
    option,
    optional,
    resolve,
    serialized,
    text,
)
from layergraph.errors import ConfigError

Shape = tuple[int, ...]

#: Standard deviation of a standard normal distribution truncated at two standard deviations.
TRUNCATED_STDDEV = 0.87962566103423978


class Initializer(Configurable):
    """Creates the initial value of a weight (keras.initializers.Initializer)."""

    def __call__(self, shape: Shape, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Returns a new tensor of `shape` and `dtype`. Raises ConfigError if the shape isn't supported."""
        raise NotImplementedError


class Zeros(Initializer):
    """All zeros (keras.initializers.Zeros)."""

    def __call__(self, shape: Shape, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)


class Ones(Initializer):
    """All ones (keras.initializers.Ones)."""

    def __call__(self, shape: Shape, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.ones(shape, dtype=dtype)


def constant_value(value: Any) -> Any:
    """Validator: a number, a nested list of numbers, or Keras's serialised form of an array."""
    if isinstance(value, Mapping):
        config = value.get("config")
        value = config.get("value") if isinstance(config, Mapping) else None
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except ValueError:
        raise Expected("a number or an array of numbers") from None
    if array.dtype.kind not in "biuf":
        raise Expected("a number or an array of numbers")
    return array.tolist()


class Constant(Initializer):
    """A constant `value`; an array is broadcast to the shape (keras.initializers.Constant)."""

    value: Any = option(constant_value, default=0.0)

    def __call__(self, shape: Shape, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        value = torch.as_tensor(self.value).to(dtype)
        try:
            return value.expand(shape).clone()
        except RuntimeError:
            raise ConfigError(
                f"Constant: got a weight of shape {shape}, expected one that value of shape {tuple(value.shape)} "
                "broadcasts to"
            ) from None


class Identity(Initializer):
    """`gain` times the identity matrix, for matrices only (keras.initializers.Identity)."""

    gain: float = option(number, default=1.0)

    def __call__(self, shape: Shape, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        if len(shape) != 2:
            raise ConfigError(f"Identity: got a weight of shape {shape}, expected two dimensions")
        return self.gain * torch.eye(*shape, dtype=dtype)


def _window(value: Any) -> str | list[float] | None:
    if isinstance(value, (list, tuple, np.ndarray)):
        return [number(item) for item in np.asarray(value).tolist()]
    return None if value is None else text(value)


class STFT(Initializer):
    """Kernel of a short-time Fourier transform, of shape (frame, 1, frequencies) (keras.initializers.STFT)."""

    side: str = option(one_of("real", "imag"), default="real")
    window: Any = option(_window, default="hann")
    scaling: str | None = option(optional(one_of("density", "spectrum")), default="density")
    periodic: bool = option(boolean, default=False)

    def setup(self) -> None:
        if isinstance(self.window, str) and self.window not in WINDOWS:
            raise ConfigError(
                f"STFT: window is '{self.window}', expected one of {', '.join(sorted(WINDOWS))} or values"
            )

    def __call__(self, shape: Shape, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        if len(shape) != 3:
            raise ConfigError(f"STFT: got a weight of shape {shape}, expected (frame, 1, frequencies)")
        frame, _, frequencies = shape
        frequency = torch.arange(frequencies, dtype=torch.float64) / max(1, (frequencies - 1) * 2)
        time = torch.arange(frame, dtype=torch.float64)[:, None, None]
        angle = -2 * math.pi * time * frequency
        kernel = torch.cos(angle) if self.side == "real" else torch.sin(angle)
        if self.window is not None:
            kernel = kernel * self._scaled_window(frame)[:, None, None]
        return kernel.to(dtype)

    def _scaled_window(self, frame: int) -> torch.Tensor:
        if isinstance(self.window, str):
            # SciPy's get_window(name, n, fftbins): a periodic window is a symmetric one of n + 1 without its end.
            window = WINDOWS[self.window](frame, periodic=self.periodic, dtype=torch.float64)
        else:
            window = torch.tensor(self.window, dtype=torch.float64)
        if len(window) != frame:
            raise ConfigError(f"STFT: window has {len(window)} values, expected {frame}")
        if self.scaling == "density":
            return window / window.square().sum().sqrt()
        return window / window.abs().sum() if self.scaling == "spectrum" else window


def _rectangle(length: int, *, periodic: bool, dtype: torch.dtype) -> torch.Tensor:
    return torch.ones(length, dtype=dtype)


WINDOWS: Mapping[str, Callable[..., torch.Tensor]] = {
    "hann": torch.hann_window,
    "hamming": torch.hamming_window,
    "blackman": torch.blackman_window,
    "bartlett": torch.bartlett_window,
    "boxcar": _rectangle,
}


def seed(value: Any) -> int | None:
    """Validator: an integer, None, or Keras's serialised SeedGenerator, whose seed is used."""
    if isinstance(value, Mapping):
        config = value.get("config")
        value = config.get("seed") if isinstance(config, Mapping) else None
    if value is None:
        return None
    try:
        return integer(value)
    except Expected:
        raise Expected("an integer, or None") from None


class RandomInitializer(Initializer):
    """Draws random values: with a seed the same as Keras's torch backend, otherwise from torch's generator."""

    seed: int | None = option(seed, default=None, kw_only=True)

    def _generator(self) -> torch.Generator | None:
        # Keras seeds torch with the sum of [seed, 0] as an unsigned 32-bit integer.
        return None if self.seed is None else torch.Generator().manual_seed(self.seed & 0xFFFFFFFF)

    def _normal(self, shape: Shape, dtype: torch.dtype, mean: float, stddev: float) -> torch.Tensor:
        return torch.normal(mean, stddev, shape, generator=self._generator(), dtype=dtype)

    def _truncated_normal(self, shape: Shape, dtype: torch.dtype, mean: float, stddev: float) -> torch.Tensor:
        # The first of four draws within two standard deviations is used, as in Keras's torch backend.
        draws = self._normal((*shape, 4), dtype, 0.0, 1.0)
        chosen = ((draws > -2) & (draws < 2)).max(-1, keepdim=True)[1]
        return draws.gather(-1, chosen).squeeze(-1).mul_(stddev).add_(mean)

    def _uniform(self, shape: Shape, dtype: torch.dtype, low: float, high: float) -> torch.Tensor:
        return torch.rand(shape, generator=self._generator(), dtype=dtype).mul_(high - low).add_(low)


class RandomNormal(RandomInitializer):
    """Normal distribution with `mean` and `stddev` (keras.initializers.RandomNormal)."""

    mean: float = option(number, default=0.0)
    stddev: float = option(number, default=0.05)
    seed: int | None = option(seed, default=None)

    def __call__(self, shape: Shape, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return self._normal(shape, dtype, self.mean, self.stddev)


class TruncatedNormal(RandomInitializer):
    """Normal distribution truncated at two standard deviations (keras.initializers.TruncatedNormal)."""

    mean: float = option(number, default=0.0)
    stddev: float = option(number, default=0.05)
    seed: int | None = option(seed, default=None)

    def __call__(self, shape: Shape, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return self._truncated_normal(shape, dtype, self.mean, self.stddev)


class RandomUniform(RandomInitializer):
    """Uniform distribution from `minval` to `maxval` (keras.initializers.RandomUniform)."""

    minval: float = option(number, default=-0.05)
    maxval: float = option(number, default=0.05)
    seed: int | None = option(seed, default=None)

    def __call__(self, shape: Shape, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return self._uniform(shape, dtype, self.minval, self.maxval)


def _distribution(value: Any) -> str:
    accepted = one_of("uniform", "truncated_normal", "untruncated_normal", "normal")
    name = accepted(value.lower() if isinstance(value, str) else value)
    return "truncated_normal" if name == "normal" else name


def _fans(shape: Shape, input_axes: tuple[int, ...] | None, output_axes: tuple[int, ...] | None) -> tuple[int, int]:
    """Returns fan in and fan out (Keras's compute_fans); kernels are (..., inputs, outputs)."""
    if input_axes is not None and output_axes is not None:
        return math.prod(shape[axis] for axis in input_axes), math.prod(shape[axis] for axis in output_axes)
    if len(shape) < 2:
        size = math.prod(shape)
        return size, size
    field = math.prod(shape[:-2])
    return shape[-2] * field, shape[-1] * field


#: Options added in later releases of Keras 3.
LATER_INITIALIZER_OPTIONS = frozenset({"input_axes", "output_axes"})


class _Scaled(RandomInitializer):
    """Base of `VarianceScaling` and its named settings: variance scale / fan, where the mode selects the fan."""

    #: scale, mode, distribution
    settings: ClassVar[tuple[float, str, str]]

    input_axes: tuple[int, ...] | None = option(optional(list_of(integer)), default=None, kw_only=True)
    output_axes: tuple[int, ...] | None = option(optional(list_of(integer)), default=None, kw_only=True)

    def get_config(self) -> dict[str, Any]:
        """Omits axes that aren't set: older releases of Keras 3 reject unknown options."""
        config = super().get_config()
        return {
            key: value for key, value in config.items() if key not in LATER_INITIALIZER_OPTIONS or value is not None
        }

    def __call__(self, shape: Shape, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        scale, mode, distribution = self._settings()
        fan_in, fan_out = _fans(shape, self.input_axes, self.output_axes)
        units = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
        variance = scale / max(1.0, units)
        if distribution == "truncated_normal":
            return self._truncated_normal(shape, dtype, 0.0, math.sqrt(variance) / TRUNCATED_STDDEV)
        if distribution == "untruncated_normal":
            return self._normal(shape, dtype, 0.0, math.sqrt(variance))
        limit = math.sqrt(3.0 * variance)
        return self._uniform(shape, dtype, -limit, limit)

    def _settings(self) -> tuple[float, str, str]:
        return self.settings


class VarianceScaling(_Scaled):
    """Variance `scale` / n, where n is fan in, fan out, or their mean (keras.initializers.VarianceScaling)."""

    scale: float = option(number, default=1.0)
    mode: str = option(one_of("fan_in", "fan_out", "fan_avg"), default="fan_in")
    distribution: str = option(_distribution, default="truncated_normal")
    seed: int | None = option(seed, default=None)

    def setup(self) -> None:
        if self.scale <= 0:
            raise ConfigError(f"VarianceScaling: option 'scale' is {self.scale}, expected a positive number")

    def _settings(self) -> tuple[float, str, str]:
        return self.scale, self.mode, self.distribution


class GlorotUniform(_Scaled):
    """Uniform within +-sqrt(6 / (fan_in + fan_out)) (keras.initializers.GlorotUniform)."""

    settings = (1.0, "fan_avg", "uniform")
    seed: int | None = option(seed, default=None)


class GlorotNormal(_Scaled):
    """Truncated normal of variance 2 / (fan_in + fan_out) (keras.initializers.GlorotNormal)."""

    settings = (1.0, "fan_avg", "truncated_normal")
    seed: int | None = option(seed, default=None)


class LecunUniform(_Scaled):
    """Uniform within +-sqrt(3 / fan_in) (keras.initializers.LecunUniform)."""

    settings = (1.0, "fan_in", "uniform")
    seed: int | None = option(seed, default=None)


class LecunNormal(_Scaled):
    """Truncated normal of variance 1 / fan_in (keras.initializers.LecunNormal)."""

    settings = (1.0, "fan_in", "truncated_normal")
    seed: int | None = option(seed, default=None)


class HeUniform(_Scaled):
    """Uniform within +-sqrt(6 / fan_in) (keras.initializers.HeUniform)."""

    settings = (2.0, "fan_in", "uniform")
    seed: int | None = option(seed, default=None)


class HeNormal(_Scaled):
    """Truncated normal of variance 2 / fan_in (keras.initializers.HeNormal)."""

    settings = (2.0, "fan_in", "truncated_normal")
    seed: int | None = option(seed, default=None)


class Orthogonal(RandomInitializer):
    """`gain` times a random orthogonal matrix; leading axes are merged to rows (keras.initializers.Orthogonal)."""

    gain: float = option(number, default=1.0)
    seed: int | None = option(seed, default=None)

    def __call__(self, shape: Shape, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        if len(shape) < 2:
            raise ConfigError(f"Orthogonal: got a weight of shape {shape}, expected at least two dimensions")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        drawn = self._normal((max(rows, columns), min(rows, columns)), dtype, 0.0, 1.0)
        wide = dtype if dtype in (torch.float32, torch.float64) else torch.float32
        q, r = torch.linalg.qr(drawn.to(wide))
        # Multiplying by the signs of r's diagonal makes q uniform over the orthogonal matrices.
        q = q * r.diagonal().sign()
        square = q.T if rows < columns else q
        return torch.mul(square, self.gain).reshape(shape).to(dtype)


INITIALIZERS: Mapping[str, type[Initializer]] = {
    known.__name__: known
    for known in cast(
        "tuple[type[Initializer], ...]",
        (
            Zeros,
            Ones,
            Constant,
            Identity,
            STFT,
            RandomNormal,
            TruncatedNormal,
            RandomUniform,
            VarianceScaling,
            GlorotUniform,
            GlorotNormal,
            LecunUniform,
            LecunNormal,
            HeUniform,
            HeNormal,
            Orthogonal,
        ),
    )
}

#: Other names that Keras's `get` accepts.
ALIASES: Mapping[str, str] = {
    **{snake_case(name): name for name in INITIALIZERS},
    "IdentityInitializer": "Identity",
    "STFTInitializer": "STFT",
    "OrthogonalInitializer": "Orthogonal",
    "normal": "RandomNormal",
    "uniform": "RandomUniform",
    "zero": "Zeros",
    "one": "Ones",
}


def initializer(value: Any) -> Initializer:
    """Validator: a name, an initializer, or its serialised form. Raises ConfigError."""
    return resolve("initializer", value, INITIALIZERS, ALIASES)


# Keras's aliases: function names of the classes, and `get`, `deserialize`, `serialize`.
constant = Constant
glorot_normal = GlorotNormal
glorot_uniform = GlorotUniform
he_normal = HeNormal
he_uniform = HeUniform
identity = Identity
lecun_normal = LecunNormal
lecun_uniform = LecunUniform
ones = Ones
orthogonal = Orthogonal
random_normal = RandomNormal
random_uniform = RandomUniform
stft = STFT
truncated_normal = TruncatedNormal
variance_scaling = VarianceScaling
zeros = Zeros
get = deserialize = initializer
serialize = serialized

__all__ = [
    "STFT",
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Identity",
    "Initializer",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "Orthogonal",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
    "constant",
    "deserialize",
    "get",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "lecun_normal",
    "lecun_uniform",
    "ones",
    "orthogonal",
    "random_normal",
    "random_uniform",
    "serialize",
    "stft",
    "truncated_normal",
    "variance_scaling",
    "zeros",
]
