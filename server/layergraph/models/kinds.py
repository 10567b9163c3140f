"""The classes of models that a config may name.

Models are built from configs, and have a method that builds others (`from_config`). So the builder is below the classes
and finds them here. `models/__init__` names them.
"""

from __future__ import annotations

from collections.abc import Callable

from layergraph.config.options import Configurable
from layergraph.training.trainer import Trainer

#: "Functional", "Sequential", "HubModel" -> class.
MODELS: dict[str, Callable[..., Trainer]] = {}
#: Registered name -> KerasHub's class, as hyperparameters.
ARCHITECTURES: dict[str, type[Configurable]] = {}
