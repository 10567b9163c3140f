"""Models as bytes: those of a model file, so that unpickling reads them as any file, and runs nothing that is in it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from layergraph.errors import ConfigError
from layergraph.models.loading import load_model
from layergraph.models.model import Model
from layergraph.saving.formats import FORMATS, Format, chosen_format


def pickled(model: Model) -> tuple[Callable[..., Model], tuple[Any, ...]]:
    """Returns what makes an equal model (for `__reduce__`): a function and its arguments, one of them a model file.

    Classes of custom layers are arguments, too, so pickle refers to them as to any class: by module and name. Raises
    ConfigError if no format can store the model.
    """
    form = _format(model)
    with tempfile.TemporaryDirectory(prefix="layergraph-") as folder:
        path = Path(folder) / f"model{form.suffix}"
        model.save(path, form.generation)
        content = path.read_bytes()
    classes = {type(layer).__name__: type(layer) for layer in model.walk_layers() if layer.computes_by_call}
    # What a file of another release can't tell: the one that the model came from, and how that trained.
    origin = model.keras_version, model.file_suffix, model.training_rules
    return unpickled, (content, form.suffix, classes, origin)


def unpickled(content: bytes, suffix: str, classes: Mapping[str, Any], origin: tuple[Any, ...]) -> Model:
    """Returns the model of `pickled`. Raises errors.ModelFileError, as `load_model` does."""
    with tempfile.TemporaryDirectory(prefix="layergraph-") as folder:
        path = Path(folder) / f"model{suffix}"
        path.write_bytes(content)
        model = load_model(path, classes, keep_lora=True)
        if model.optimizer_state is not None:
            # Otherwise read when training starts, from a file that is gone by then.
            model.optimizer_state = list(model.optimizer_state)
    model.keras_version, model.file_suffix, model.training_rules = origin
    return model


def _format(model: Model) -> Format:
    """The format that the model came in, or else one that can store it. Raises ConfigError if none can."""
    for name in ("", *FORMATS):
        with suppress(ConfigError):
            return chosen_format(model, name)
    return chosen_format(model)
