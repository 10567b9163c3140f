"""Reads models from open files and from configs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layergraph.archive import LoadLimits, ModelArchive
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
from layergraph.models.kinds import ARCHITECTURES
from layergraph.ops import operations
from layergraph.plugins import custom_activations, custom_layers, replaced_lambdas
from layergraph.saving.adapted_lengths import with_adapted_lengths
from layergraph.saving.graph_config import KERAS_VERSION
from layergraph.saving.optimizer_state import OptimizerState
from layergraph.saving.stored_weights import load_weights
from layergraph.training.trainer import Trainer


def read_model(archive: ModelArchive, compile: bool = True, *, keep_lora: bool = False) -> Trainer:
    """Reads the model of an open file (see `load_model`)."""
    try:
        return _model(archive, compile, keep_lora)
    except RecursionError:
        raise CorruptFileError(archive.path, "is nested too deep") from None
    except ConfigError as wrong:
        raise UnsupportedModelError(archive.path, str(wrong)) from wrong
    except (GraphError, DataError) as wrong:
        raise CorruptFileError(archive.path, str(wrong)) from wrong


def _model(archive: ModelArchive, is_compiled: bool, keep_lora: bool) -> Trainer:
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


def _has_merged_lora(model: Trainer) -> bool:
    """Whether a layer lacks LoRA weights that it had in the file, to which the optimizer's state there belongs."""
    layers = (layer for layer in model.walk_layers() if isinstance(layer, LoraLayer))
    return any(layer.filed_rank and layer.lora is None for layer in layers)


def _state_problems(model: Trainer, archive: ModelArchive, generation: Generation) -> list[str]:
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


def described_model(described: Any, limits: LoadLimits) -> Trainer:
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


def _compile(model: Trainer, given: Mapping[str, Any], generation: Generation) -> None:
    problems = Diagnostics()
    config = compile_config(given, generation, model.output_names, problems, custom_activations())
    # A model with an unsupported loss can't be trained, but it can be served.
    model.compile_config = None if problems else config
    model.compile_problem = "; ".join(problems.texts[:5])


def vocabulary() -> Vocabulary:
    """The names that a file may use: those of the tables, and those that plugins have registered so far."""
    layers = {**LAYERS, **HUB_LAYERS, **custom_layers()}
    return Vocabulary(layers, operations(), replaced_lambdas(), custom_activations(), ARCHITECTURES)


def _spec(
    config: Mapping[str, Any], generation: Generation, path: Path, limits: LoadLimits, *, has_weights: bool = True
) -> GraphSpec:
    problems = Diagnostics()
    spec = read_graph(config, generation, path, problems, vocabulary(), limits)
    find_unsupported(spec, generation.ignores, problems, has_weights=has_weights)
    if problems:
        raise UnsupportedModelError(Path(path), problems.texts)
    return spec


def _remember_options(model: Trainer) -> None:
    """Stores the values of options as loaded from the file, also for the InputLayers of Sequentials."""
    for layer in model.walk_layers():
        if layer.stored_form is not None:
            for known in (layer, *layer.stored_form.layers):
                if known.stored_form is not None and not known.stored_form.options:
                    known.stored_form.remember(known)
