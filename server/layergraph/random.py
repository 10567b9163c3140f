"""Random tensors by Keras's names (keras.random), for the `call` of custom layers.

Within a call all numbers are drawn from the generator of the call, so that training repeats itself and a checkpoint
goes on with the same numbers. They aren't Keras's, whose seeds make other numbers on each of its backends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from layergraph.errors import ConfigError
from layergraph.functional.call_context import CallContext, current_context
from layergraph.functional.dtypes import torch_dtype

__all__ = ["SeedGenerator", "categorical", "dropout", "normal", "randint", "shuffle", "truncated_normal", "uniform"]


class SeedGenerator:
    """A seed that a layer keeps (keras.random.SeedGenerator). The functions accept it, and don't use it."""

    def __init__(self, seed: int | None = None, name: str | None = None) -> None:
        if seed is not None and not isinstance(seed, int):
            raise ConfigError(f"SeedGenerator: seed is {seed!r}, expected an integer or None")
        self.seed = seed
        self.name = name or "seed_generator"

    def get_config(self) -> dict[str, Any]:
        """The arguments, by which Keras makes it again."""
        return {"seed": self.seed, "name": self.name}


def normal(shape: Sequence[int], mean: float = 0.0, stddev: float = 1.0, dtype: Any = None, seed: Any = None) -> Any:
    """Normally distributed numbers."""
    return _drawn(shape, dtype, lambda empty, generator: empty.normal_(mean, stddev, generator=generator))


def truncated_normal(
    shape: Sequence[int], mean: float = 0.0, stddev: float = 1.0, dtype: Any = None, seed: Any = None
) -> Any:
    """Normally distributed numbers within two standard deviations of the mean."""

    def draw(empty: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return torch.nn.init.trunc_normal_(empty, mean, stddev, mean - 2 * stddev, mean + 2 * stddev, generator)

    return _drawn(shape, dtype, draw)


def uniform(shape: Sequence[int], minval: float = 0.0, maxval: float = 1.0, dtype: Any = None, seed: Any = None) -> Any:
    """Uniformly distributed numbers from `minval` on, below `maxval`; integers for an integer dtype."""
    if dtype is not None and not _type(dtype).is_floating_point:
        return randint(shape, int(minval), int(maxval), dtype)
    return _drawn(shape, dtype, lambda empty, generator: empty.uniform_(minval, maxval, generator=generator))


def randint(shape: Sequence[int], minval: int, maxval: int, dtype: Any = "int32", seed: Any = None) -> Any:
    """Integers from `minval` on, below `maxval`."""
    return _drawn(shape, dtype, lambda empty, generator: empty.random_(minval, maxval, generator=generator))


def dropout(inputs: Any, rate: float, noise_shape: Sequence[int] | None = None, seed: Any = None) -> Any:
    """Sets a fraction `rate` of the inputs to 0, and scales the rest to keep the sum."""
    if rate <= 0:
        return inputs
    given = [length if length is not None else inputs.shape[axis] for axis, length in enumerate(noise_shape or ())]
    kept = uniform(given or inputs.shape, dtype=inputs.dtype).to(inputs.device) >= rate
    return torch.where(kept, inputs / (1 - rate), 0)


def categorical(logits: Any, num_samples: int, dtype: Any = "int32", seed: Any = None) -> Any:
    """Indices drawn with the probabilities softmax(logits): (rows, classes) -> (rows, num_samples)."""
    noise = uniform((logits.shape[0], num_samples, logits.shape[1]), 1e-20, 1.0, logits.dtype).to(logits.device)
    return (logits[:, None] - torch.log(-torch.log(noise))).argmax(-1).to(_type(dtype))


def shuffle(x: Any, axis: int = 0, seed: Any = None) -> Any:
    """The entries along `axis` in a random order."""
    order = uniform((x.shape[axis],)).to(x.device).argsort()
    return x.index_select(axis, order)


def _type(dtype: Any) -> torch.dtype:
    return dtype if isinstance(dtype, torch.dtype) else torch_dtype(dtype or "float32")


def _drawn(
    shape: Sequence[int], dtype: Any, draw: Callable[[torch.Tensor, torch.Generator | None], torch.Tensor]
) -> torch.Tensor:
    """Fills a tensor with random numbers of the current call, or of torch's default generator outside of a call."""
    context = current_context.get() or CallContext()
    generator = context.generator
    device = "meta" if context.symbolic_dims else "cpu" if generator is None else generator.device
    like = torch.empty(tuple(shape), dtype=_type(dtype), device=device)
    if device == "meta":
        return like
    shard = context.shard
    rows = shard is not None and like.ndim and like.shape[0] == shard.count
    # Each worker draws for the whole batch, where the first axis is the batch.
    return context.drawn(like.shape, like, lambda empty: draw(empty, generator)) if rows else draw(like, generator)
