"""Contents of `.keras` files of tf.keras 2.13 to 2.15: the config, and the arrays by group.

The zip file is as in Keras 3, configs and calls are as in an `.h5` of Keras 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from layergraph.functional.layer import Layer
from layergraph.layers.attention.multi_head import ProjectedAttention
from layergraph.saving.keras2.compile import Keras2Compile
from layergraph.saving.keras2.config import KERAS2_VERSION, checked_config, file_orders
from layergraph.saving.keras2.releases import Release
from layergraph.saving.layouts import depth_first, own_variables, state_groups, state_groups_once, variables_path
from layergraph.training.trainer import Trainer

#: Minor version of the first release whose `.keras` files contain models.
_FIRST_MINOR = 12
_FUNCTIONAL = {"module": "keras.src.engine.functional", "registered_name": "Functional"}
#: Classes of early files with today's classes and options: in these files groups of arrays have the classes' names.
_CURRENT: dict[str, tuple[str, dict[str, Any]]] = {
    "CuDNNLSTM": ("LSTM", {}),
    "CuDNNGRU": ("GRU", {"reset_after": True}),
    "SyncBatchNormalization": ("BatchNormalization", {"synchronized": True}),
}
_SEQUENTIAL = {"module": "keras", "registered_name": None}


def archive_version(model: Trainer) -> str:
    """The release that the file is written for: the model's own if it has `.keras` files, else the last of Keras 2."""
    own = re.match(r"2\.(\d+)\.", model.keras_version or "")
    return model.keras_version or "" if own and int(own[1]) >= _FIRST_MINOR else KERAS2_VERSION


def archive_config(model: Trainer) -> dict[str, Any]:
    """The content of `config.json`. Raises ConfigError if such a file can't store the model."""
    compile_config, problems = None, []
    if model.saved_compilation is not None:
        writer = Keras2Compile(model, Release.of(archive_version(model)))
        compile_config = writer.compile_config()
        problems = writer.unsupported
    config = _in_current_classes(checked_config(model, ".keras", problems))
    if "module" not in config:
        sequential = model.keras_class_name == "Sequential"
        config = {**config, "class_name": model.keras_class_name, **(_SEQUENTIAL if sequential else _FUNCTIONAL)}
    return config if compile_config is None else {**config, "compile_config": compile_config}


def _in_current_classes(content: Any) -> Any:
    """The form of a model or layer, and all forms in it, in classes whose arrays are as layers have them here."""
    if isinstance(content, (list, tuple)):
        return [_in_current_classes(item) for item in content]
    if not isinstance(content, Mapping):
        return content
    result = {key: _in_current_classes(value) for key, value in content.items()}
    kind = content.get("class_name")
    if isinstance(kind, str) and kind in _CURRENT:
        name, options = _CURRENT[kind]
        result |= {"class_name": name, "config": {**result["config"], **options}}
    return result


def archive_groups(model: Trainer) -> Iterator[tuple[str, Layer]]:
    """The model, and each layer with arrays, with their groups in the release of `archive_version`."""
    # Inputs and operations are numbered among their classes, too, but have no groups.
    order = file_orders(model)
    version = archive_version(model)
    if version.startswith(("2.12.", "2.13.")):
        # These releases visit a layer with weights twice, and count it each time.
        groups = state_groups(model, order, lambda layer: 2 if depth_first(layer, order) else 1)
    else:
        groups = state_groups_once(model, order, lambda layer: layer, last=version.startswith("2.15."))
    projections = {
        inner for layer in model.walk_layers() if isinstance(layer, ProjectedAttention) for inner in layer.walk_layers()
    }
    for path, layer in groups:
        # Keras requires the group of the model itself, even if it is empty.
        if layer is not model and not own_variables(layer):
            continue
        group = variables_path(path, layer)
        if not version.startswith("2.15."):
            group = re.sub(r"(^|/)layers/", r"\1_layer_checkpoint_dependencies/", group)
        yield re.sub(r"/(\w+_dense/vars)$", r"/_\1", group) if layer in projections else group, layer
