"""Table of the zoo's models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType

import torch
from layergraph import Model, clear_session

from layerserve_zoo import (
    dense,
    headline,
    inception,
    layer_node,
    model_as_layer,
    residual,
    shared_vision,
    tweets,
    video_qa,
    visual_qa,
)


@dataclass(frozen=True, slots=True)
class ZooModel:
    """A model of the zoo.

    name         name of the model in a repository
    description  what it demonstrates, in a sentence
    build        builds it, by default in the guide's sizes; compiled if it is in the guide
    small        arguments of `build` for sizes that run in milliseconds
    """

    name: str
    description: str
    build: Callable[..., Model]
    small: Mapping[str, int]

    def outline(self, *, small: bool = False) -> Model:
        """Returns the model with default layer names counted from zero. Its weights are initialized on first use."""
        clear_session()
        return self.build(**self.small) if small else self.build()

    def make(self, *, small: bool = False, seed: int = 0) -> Model:
        """Returns the model with weights initialized from `seed`. torch's global random state isn't changed."""
        model = self.outline(small=small)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            for weight in model.weights:
                _ = weight.value
        return model


def _entry(module: ModuleType, **small: int) -> ZooModel:
    """Returns the entry of a module. Its description is the first line of the module's docstring."""
    description = (module.__doc__ or "").partition("\n")[0]
    return ZooModel(module.__name__.rpartition(".")[2], description, module.build, small)


_VISUAL = {"size": 32, "words": 12, "vocabulary": 200, "filters": 4, "units": 16, "answers": 20}

#: name -> model, in the guide's order. The small dense network fits scikit-learn's 8x8 digits.
ZOO: Mapping[str, ZooModel] = {
    model.name: model
    for model in (
        _entry(dense, features=64),
        _entry(model_as_layer, timesteps=5, features=64),
        _entry(headline, words=12, vocabulary=200, width=16),
        _entry(tweets, characters=24, alphabet=16, units=8),
        _entry(layer_node, characters=24, alphabet=16, units=8, small_size=8, large_size=16, filters=4),
        _entry(inception, size=16, filters=8),
        _entry(residual, size=16),
        _entry(shared_vision, size=12, filters=8),
        _entry(visual_qa, **_VISUAL),
        _entry(video_qa, frames=4, **_VISUAL),
    )
}
