"""Loading models from files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layergraph.archive import DEFAULT_LIMITS, LoadLimits, ModelArchive, open_archive
from layergraph.config.compiled import compile_config, names_optimizer
from layergraph.config.diagnostics import Diagnostics
from layergraph.config.keras_versions import Generation, generation_of, version_of_config
from layergraph.config.reader import read_graph
from layergraph.config.spec import GraphSpec
from layergraph.config.vocabulary import Vocabulary
from layergraph.errors import (
    ConfigError,
    CorruptFileError,
    DataError,
    GraphError,
    LayerGraphError,
    UnsupportedModelError,
)
from layergraph.functional.sublayers import list_as_in_keras2
from layergraph.layers.hub.table import LAYERS as HUB_LAYERS
from layergraph.layers.lora import LoraLayer
from layergraph.layers.table import LAYERS
from layergraph.models.from_config import find_unsupported, rebuild
from layergraph.models.hub.table import HUB_MODELS
from layergraph.models.model import Model
from layergraph.ops import operations
from layergraph.plugins import custom_activations, custom_layers, custom_object_scope, replaced_lambdas
from layergraph.saving.adapted_lengths import with_adapted_lengths
from layergraph.saving.graph_config import KERAS_VERSION
from layergraph.saving.optimizer_state import OptimizerState
from layergraph.saving.stored_weights import load_weights


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
    try:
        return _model(archive, compile, keep_lora)
    except RecursionError:
        raise CorruptFileError(archive.path, "is nested too deep") from None
    except ConfigError as wrong:
        raise UnsupportedModelError(archive.path, str(wrong)) from wrong
    except (GraphError, DataError) as wrong:
        raise CorruptFileError(archive.path, str(wrong)) from wrong


def _model(archive: ModelArchive, is_compiled: bool, keep_lora: bool) -> Model:
    version = version_of_config(archive.keras_version, archive.config)
    generation = generation_of(version, archive.config, archive.backend)
    spec = _spec(archive.config, generation, archive.path, archive.limits)
    rebuilt = rebuild(with_adapted_lengths(spec, archive), generation.ignores, archive.limits)
    model = rebuilt.model
    if generation.major != 3:
        for layer in model.walk_layers():
            if layer.computes_by_call:
                list_as_in_keras2(layer)
    try:
        state_layout = load_weights(model, rebuilt.file_order, archive, keep_lora=keep_lora)
    except CorruptFileError as wrong:
        # What else would be found only when training starts is reported together with the weights.
        raise CorruptFileError(archive.path, [*wrong.problems, *_state_problems(model, archive, generation)]) from wrong
    model.keras_version, model.file_suffix = version, archive.suffix
    model.training_rules = generation.training
    if model.class_form is not None:
        # KerasHub opens no `.h5` of such a model.
        model.file_suffix = ".keras"
    _remember_options(model)
    if archive.training_config is not None and is_compiled:
        _compile(model, archive.training_config, generation)
        is_its_own = names_optimizer(archive.training_config) and not _has_merged_lora(model)
        if model.compile_config is not None and is_its_own:
            model.optimizer_state = OptimizerState(archive, state_layout) or None
    return model


def _has_merged_lora(model: Model) -> bool:
    """Whether a layer lacks LoRA weights that it had in the file, to which the optimizer's state there belongs."""
    layers = (layer for layer in model.walk_layers() if isinstance(layer, LoraLayer))
    return any(layer.filed_rank and layer.lora is None for layer in layers)


def _state_problems(model: Model, archive: ModelArchive, generation: Generation) -> list[str]:
    """Why the optimizer's state in the file doesn't fit the model and its compile settings; by shapes alone."""
    try:
        shapes = [array.shape for array in archive.optimizer_weights]
        if archive.training_config is None or not shapes or not names_optimizer(archive.training_config):
            return []
        _compile(model, archive.training_config, generation)
        problem = model.state_problem(shapes)
    except LayerGraphError:
        # Arrays or settings that can't be used for another reason.
        return []
    return [f"the optimizer's state: {problem}"] if problem else []


def described_model(described: Any, limits: LoadLimits) -> Model:
    """Creates the model of an object like a `config.json`, with new weights; compiled if the object has the arguments.

    Raises errors.ModelFileError.
    """
    where = Path("the model's config")
    if not isinstance(described, Mapping) or not isinstance(described.get("config"), (Mapping, list)):
        raise CorruptFileError(where, "is no object with class_name and config")
    version = described.get("keras_version")
    try:
        generation = generation_of(version if isinstance(version, str) else KERAS_VERSION, described)
        spec = _spec(described, generation, where, limits, has_weights=False)
        model = rebuild(spec, generation.ignores, limits, has_weights=False).model
    except RecursionError:
        raise CorruptFileError(where, "is nested too deep") from None
    except ConfigError as wrong:
        raise UnsupportedModelError(where, str(wrong)) from wrong
    except (GraphError, DataError) as wrong:
        raise CorruptFileError(where, str(wrong)) from wrong
    model.training_rules = generation.training
    if isinstance(compiled := described.get("compile_config"), Mapping):
        _compile(model, compiled, generation)
    return model


def _compile(model: Model, given: Mapping[str, Any], generation: Generation) -> None:
    problems = Diagnostics()
    config = compile_config(given, generation, model.output_names, problems, custom_activations())
    # A model with an unsupported loss can't be trained, but it can be served.
    model.compile_config = None if problems else config
    model.compile_problem = "; ".join(problems.texts[:5])


def vocabulary() -> Vocabulary:
    """The names that a file may use: those of the tables, and those that plugins have registered so far."""
    layers = {**LAYERS, **HUB_LAYERS, **custom_layers()}
    return Vocabulary(layers, operations(), replaced_lambdas(), custom_activations(), HUB_MODELS)


def _spec(
    config: Mapping[str, Any], generation: Generation, path: Path, limits: LoadLimits, *, has_weights: bool = True
) -> GraphSpec:
    problems = Diagnostics()
    spec = read_graph(config, generation, path, problems, vocabulary(), limits)
    find_unsupported(spec, generation.ignores, problems, has_weights=has_weights)
    if problems:
        raise UnsupportedModelError(Path(path), problems.texts)
    return spec


def _remember_options(model: Model) -> None:
    """Stores the values of options as loaded from the file, also for the InputLayers of Sequentials."""
    for layer in model.walk_layers():
        if layer.stored_form is not None:
            for known in (layer, *layer.stored_form.layers):
                if known.stored_form is not None and not known.stored_form.options:
                    known.stored_form.remember(known)
