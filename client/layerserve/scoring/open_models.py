"""The models that a process has open: each is opened once, at its first batch, whichever thread brings it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakValueDictionary

from layerserve.errors import InvalidArgument
from layerserve.images.options import ImageOptions
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import Array


@dataclass(frozen=True, slots=True)
class Identity:
    """Which version of which model computes, by its number and by the SHA-256 digest of its files, and its signature.

    `inputs` are those that the outputs depend on, as far as that is known; `outputs` are the ones asked for. `images`
    are, by input, how the model's settings have encoded images decoded before they are given to it. An input that has
    an encoding, and isn't named there, takes them as they are.
    """

    model: str
    version: int
    digest: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    images: Mapping[str, ImageOptions] = field(default_factory=dict)


class OpenModel(Protocol):
    """A model that computes, in this process or in a server."""

    @property
    def identity(self) -> Identity:
        """The version that was opened."""

    def run(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """Returns the outputs by name for arrays by input name, with a row each. Raises LayerserveError."""


class OpenModels:
    """Models by what opens them. A model is closed when it is no longer used. Thread-safe.

    A forked child begins without any: neither connections nor the threads of a computation survive a fork.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: WeakValueDictionary[Hashable, OpenModel] = WeakValueDictionary()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin_anew)

    def get(self, key: Hashable, open_model: Callable[[], OpenModel]) -> OpenModel:
        """Returns the model of a key, which is opened if it isn't yet. Raises what `open_model` raises."""
        with self._lock:
            model = self._models.get(key)
            if model is None:
                model = self._models[key] = open_model()
            return model

    def _begin_anew(self) -> None:
        # Another thread of the parent may have held the lock.
        self._lock = threading.Lock()
        self._models = WeakValueDictionary()


#: Those of this process.
OPEN = OpenModels()


def dependent_rows(model: str) -> InvalidArgument:
    """Returns the error for a model that can't be computed in batches of any size."""
    return InvalidArgument(
        f"model {model!r}: its outputs aren't computed row by row, so results would depend on batches; compute all "
        "rows in one request: client.predict"
    )
