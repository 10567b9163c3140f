"""The formats for saving models: the generation of Keras, and the container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from layergraph.errors import ConfigError, unknown_name
from layergraph.saving.model_file import check_model, default_generation
from layergraph.training.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Format:
    """One format: its name, the generation of Keras that loads its files, and their suffix."""

    name: str
    generation: int
    suffix: str


FORMATS: Mapping[str, Format] = {
    one.name: one
    for one in (
        Format("keras3", 3, ".keras"),
        Format("keras3_h5", 3, ".h5"),
        Format("keras2", 2, ".keras"),
        Format("keras2_h5", 2, ".h5"),
    )
}


def own_format(model: Trainer) -> Format:
    """The format that the model was loaded from; `keras3` for a model created in Python.

    An `.h5` stands for models in several files: an architecture beside its weights, and models of TensorFlow.js.
    """
    suffix = model.file_suffix or ".keras"
    generation = default_generation(model, suffix)
    return next(one for one in FORMATS.values() if (one.generation, one.suffix) == (generation, suffix))


def chosen_format(model: Trainer, name: str = "") -> Format:
    """The format with a name, or the model's own format for "".

    Raises ConfigError for an unknown name, and if the format can't store the model: the message has what it can't
    store, and which formats can store it.
    """
    if name and name not in FORMATS:
        raise ConfigError(unknown_name("format", name, FORMATS))
    chosen = FORMATS[name] if name else own_format(model)
    problem = _problem(model, chosen)
    if problem:
        able = [f"'{one.name}'" for one in FORMATS.values() if one is not chosen and not _problem(model, one)]
        remedy = f"format {' or '.join(able)} can" if able else "no format can"
        raise ConfigError(f"format '{chosen.name}': {problem.removeprefix('save: ')}; {remedy}")
    return chosen


def _problem(model: Trainer, format: Format) -> str:
    try:
        check_model(model, format.suffix, format.generation)
    except ConfigError as problem:
        return str(problem)
    return ""
