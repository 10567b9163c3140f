"""Loading models from files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

from layergraph.archive import DEFAULT_LIMITS, LoadLimits, ModelArchive, open_archive
from layergraph.models import reading
from layergraph.models.model import Model
from layergraph.plugins import custom_object_scope


def load_model(
    path: str | os.PathLike[str],
    custom_objects: Mapping[str, Any] | None = None,
    compile: bool = True,
    *,
    limits: LoadLimits = DEFAULT_LIMITS,
    keep_lora: bool = False,
) -> Model:
    """Loads the model at `path`, a file or a version folder: `.keras` of Keras 2 and 3, `.h5` of Keras 1 to 3, a
    SavedModel folder of tf.keras 2.0 to 2.15, or a `model.json` with weights beside it.

    custom_objects   names in the file -> classes of layers and activation functions, in addition to registered ones
    compile          whether to compile the model as in the file
    keep_lora        whether LoRA weights in the file stay weights of their layers, to be trained on, rather than being
                     merged into the kernels, which are faster without

    Nothing in the file is executed or imported, and no other file is opened. Raises errors.ModelFileError:
    CorruptFileError, UnsafeFileError, or UnsupportedModelError, which lists everything that isn't supported.
    """
    with open_archive(path, limits) as archive, custom_object_scope(custom_objects or {}):
        return load_archive(archive, compile, keep_lora=keep_lora)


def load_archive(archive: ModelArchive, compile: bool = True, *, keep_lora: bool = False) -> Model:
    """Like `load_model`, of an open file."""
    return cast("Model", reading.read_model(archive, compile, keep_lora=keep_lora))
