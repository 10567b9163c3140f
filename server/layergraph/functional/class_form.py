"""How files describe a model of one of KerasHub's classes: by its hyperparameters rather than its layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from layergraph.functional.functional import Functional


class ClassForm(NamedTuple):
    """The name `package>Class`, the class's hyperparameters, and the model that it is built on, if any."""

    registered_name: str
    hyperparameters: Mapping[str, Any]
    backbone: Functional | None
