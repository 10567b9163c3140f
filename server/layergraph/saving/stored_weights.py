"""Loading weights from files: all arrays are compared with the model before any of them is read."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from layergraph.archive import ArrayList, ModelArchive, StateTree, StoredArray
from layergraph.config.diagnostics import Diagnostics, short_name
from layergraph.errors import ConfigError, CorruptFileError
from layergraph.functional.functional import Functional
from layergraph.functional.layer import Layer
from layergraph.functional.weight import Weight
from layergraph.layers.attention.attention import UnprojectedAttention
from layergraph.layers.attention.multi_head import ProjectedAttention
from layergraph.layers.core.reversible_embedding import ReversibleEmbedding
from layergraph.layers.lora import LoraLayer
from layergraph.layers.quantized.kernels import QuantizedLayer
from layergraph.layers.rnn.recurrent import GRU, LSTM
from layergraph.layers.wrappers import Bidirectional
from layergraph.saving.layouts import (
    FileOrder,
    depth_first,
    keras2_group_name,
    layers_of,
    left_out_of_keras3_h5,
    legacy_orders,
    own_variables,
    placed_variables,
    state_groups,
    state_groups_once,
    variables_path,
)
from layergraph.saving.lora import merged_lora, unmerged
from layergraph.saving.old_layouts import Derived, Origin, from_cudnn, modern, origin_of
from layergraph.saving.old_states import StateLayout, state_layout
from layergraph.saving.shard_owners import arrays_by_layer

#: Kinds of dtypes; a weight is never loaded from an array of another kind.
_KINDS = {"float": "float", "bfloat": "float", "int": "int", "uint": "int", "bool": "bool"}

#: What Keras 2.13 and 2.14 may call the groups of layers.
_LAYERS_OF_2_13 = "_layer_checkpoint_dependencies/"


@dataclass(frozen=True, slots=True)
class _Match:
    layer: Layer
    weight: Weight
    array: StoredArray
    #: The group of the layer's arrays in the legacy layout.
    group: str = ""


def load_weights(
    model: Functional, order: FileOrder, archive: ModelArchive, *, keep_lora: bool = False
) -> StateLayout | None:
    """Loads the model's weights from the file; with `keep_lora`, layers get the LoRA weights that it has for them.

    Returns how the optimizer's state is stored; None if it is stored as the model has it. Raises CorruptFileError that
    names every layer whose arrays are missing or don't fit.
    """
    problems = Diagnostics()
    for text in archive.weights.problems:
        problems.add(text)
    for path, layer in _groups(model, order, archive.keras_version or ""):
        for name in layer.storage.assets:
            spelt = (archive.asset(f"{form}/{name}") for form in (path, path.replace("layers/", _LAYERS_OF_2_13)))
            content = next((content for content in spelt if content is not None), None)
            if content is not None:
                layer.load_asset(name, content)
    _quantize_projections(model, order, archive)
    if archive.keras_version == "2.2.4-tf":
        _find_scales(model, archive)
    if archive.keras_version == "2.3.0-tf":
        _keep_masked_outputs(model, archive)
    _adapt_as_stored(model, order, archive, keep_lora=keep_lora)
    origin = origin_of(archive.keras_version, archive.backend)
    form = model.class_form
    if form is not None and form.backbone is not None and archive.is_preset and isinstance(archive.weights, StateTree):
        version = archive.keras_version or ""
        matches = list(_of_preset(model, form.backbone, order, archive, archive.weights, problems, version))
    elif isinstance(archive.weights, StateTree):
        matches = list(_by_path(model, order, archive.weights, problems, archive.keras_version or ""))
    elif not isinstance(archive.weights, ArrayList):
        matches = list(_by_order(model, order, archive.weights.layers(), origin, problems))
    elif (named := arrays_by_layer(model, order, archive.weights.arrays)) is not None:
        matches = list(_by_order(model, order, named, origin, problems))
    else:
        matches = list(_by_position(model, order, archive.weights, origin, problems))
    _compare(matches, problems)
    if problems:
        raise CorruptFileError(archive.path, problems.texts)
    _check_budget(matches, archive)
    if archive.prefetch is not None:
        archive.prefetch([wanted for match in matches for wanted in _wanted(match.array, match.weight)])
    for match in matches:
        match.weight.bind(torch.from_numpy(match.array.read()))
    stored = {match.weight: (match.group, match.array) for match in matches}
    return state_layout(model.trainable_weights, stored, origin)


def _wanted(array: StoredArray, weight: Weight) -> Iterator[tuple[StoredArray, tuple[int, ...] | None]]:
    """The arrays in the file that give a weight, and the memory order in which they are needed."""
    if not isinstance(array, Derived):
        yield array, weight.memory_order
        return
    waiting: list[StoredArray] = list(array.parts)
    while waiting:
        part = waiting.pop()
        if isinstance(part, Derived):
            waiting += part.parts
        else:
            yield part, None


def _quantize_projections(model: Functional, order: FileOrder, archive: ModelArchive) -> None:
    """Quantises projections of attention layers if the file's arrays are quantised; configs don't say so."""
    weights = archive.weights
    groups = _groups(model, order, archive.keras_version or "")
    attentions = [(path, layer) for path, layer in groups if isinstance(layer, ProjectedAttention)]
    # Quantising a whole model sets the same config in other layers, too.
    configs = [layer.quantization_config for layer in model.walk_layers() if isinstance(layer, QuantizedLayer)]
    config = next((one for one in configs if one is not None), None)
    named: dict[tuple[str, ...], dict[str, StoredArray]] = {}
    if attentions and not isinstance(weights, (StateTree, ArrayList)):
        for array in (array for arrays in weights.layers().values() for array in arrays):
            *inside, name = array.name.partition(":")[0].split("/")
            named.setdefault(tuple(inside[-2:]), {})[name] = array
    for path, layer in attentions:
        for group, projection in list(layer.sublayers.items()):
            found = named.get((layer.name, projection.name), {})
            if isinstance(weights, StateTree):
                arrays = _variables(weights, variables_path(f"{path}/{group}", projection), own_variables(projection))
                found = {str(position): array for position, array in enumerate(arrays)}
            layer.quantize_as_stored(group, found, config)


def _adapt_as_stored(model: Functional, order: FileOrder, archive: ModelArchive, *, keep_lora: bool) -> None:
    """Enables LoRA in the layers for which the file has such weights that are kept, or can't be merged."""
    weights = archive.weights
    # Where kernels are stored merged, integers are, too.
    merged = isinstance(weights, StateTree)
    placed = [
        (path, layer)
        for path, layer in _groups(model, order, archive.keras_version or "")
        if isinstance(layer, LoraLayer) and layer.lora is None and (keep_lora if layer.merges_lora else not merged)
    ]
    named: dict[tuple[str, ...], StoredArray] = {}
    if placed and not isinstance(weights, (StateTree, ArrayList)):
        for array in (array for arrays in weights.layers().values() for array in arrays):
            named[tuple(array.name.partition(":")[0].split("/")[-2:])] = array
    for path, layer in placed:
        if isinstance(weights, StateTree):
            found = _named_lora(weights, [variables_path(path, layer)], layer)
            a = None if found is None else found[0]
        else:
            a = named.get((layer.name, layer.lora_names[0]))
        if a is not None and a.shape:
            layer.enable_lora(a.shape[-1], layer.lora_alpha)


def _named_lora(tree: StateTree, paths: Sequence[str], layer: Layer) -> tuple[StoredArray, StoredArray] | None:
    """The LoRA weights that a file of Keras 3's layout has for a layer; None if it has none."""
    if not isinstance(layer, LoraLayer):
        return None
    for path in paths:
        group = tree.root.group(path)
        if group is not None:
            a, b = (group.array(name) for name in layer.lora_names)
            if a is not None and b is not None:
                return a, b
    return None


def _find_scales(model: Functional, archive: ModelArchive) -> None:
    """Finds out which attention layers have a scale: TensorFlow 1.14 and 2.0 leave the option out of their configs."""
    if (stored := _owned_names(archive)) is None:
        return
    for layer in model.walk_layers():
        if isinstance(layer, UnprojectedAttention):
            layer.scale_as_stored(scaled=(layer.name, "scale") in stored)


def _keep_masked_outputs(model: Functional, archive: ModelArchive) -> None:
    """In TensorFlow 2.1, LSTM and GRU don't zero the outputs of masked timesteps where cuDNN could compute them.

    2.2 writes the same version into its files, but names weights after the cell.
    """
    stored = _owned_names(archive) or set()
    for layer in model.walk_layers():
        pair = isinstance(layer, Bidirectional)
        inner = list(layer.sublayers.values()) if pair else [layer]
        if any((one.name, "kernel") in stored and _fits_cudnn(one) for one in inner) and not _of_tensorflow1(layer):
            for one in inner:
                one.zero_output_for_mask = False  # type: ignore[attr-defined]
                for weight in one.own_weights:
                    # A file saved of the model has the names of this one.
                    weight.owner = weight.owner.removesuffix(f"/{one.storage.scope}")
            if isinstance(layer, Bidirectional):
                layer.mask_rule = "keras2"


def _fits_cudnn(layer: Layer) -> bool:
    """Whether cuDNN's kernels could compute the layer (keras.layers.LSTM of TensorFlow 2)."""
    if not isinstance(layer, (LSTM, GRU)) or (isinstance(layer, GRU) and not layer.reset_after):
        return False
    config = layer.get_config()
    activations = (config["activation"], config["recurrent_activation"])
    return activations == ("tanh", "sigmoid") and layer.use_bias and not layer.unroll and not layer.recurrent_dropout


def _of_tensorflow1(layer: Layer) -> bool:
    """Whether a layer has the behaviour of TensorFlow 1, which writes a dtype into configs of initializers."""
    config: Any = {} if layer.stored_form is None else layer.stored_form.content.get("config")
    config = config.get("layer", {}).get("config", {}) if isinstance(layer, Bidirectional) else config
    initializer = config.get("kernel_initializer")
    return isinstance(initializer, dict) and "dtype" in initializer.get("config", {})


def _owned_names(archive: ModelArchive) -> set[tuple[str, ...]] | None:
    """The last two parts of all names of arrays, mostly the layer's and the weight's; None if they have no names."""
    weights = archive.weights
    if isinstance(weights, (StateTree, ArrayList)):
        return None
    names = (array.name.partition(":")[0] for arrays in weights.layers().values() for array in arrays)
    return {tuple(name.split("/")[-2:]) for name in names}


def _groups(model: Functional, order: FileOrder, version: str) -> Iterator[tuple[str, Layer]]:
    """The groups of all layers. Keras 2.13 counts a layer with weights twice; from 2.15 on, Keras 2 names layers within
    a custom one by other attributes.
    """
    if not version.startswith("2."):
        return state_groups(model, order)

    def counted_twice(layer: Layer) -> int:
        return 2 if depth_first(layer, order) else 1

    def groups_in(root: Functional) -> list[tuple[str, Layer]]:
        if version.startswith("2.13."):
            return list(state_groups(root, order, counted_twice, naming=keras2_group_name))
        both = (state_groups(root, order, last=last, naming=keras2_group_name) for last in (False, True))
        return list(dict.fromkeys(itertools.chain(*both)))

    groups = groups_in(model)
    return iter([*groups, *_named_by_attributes(groups, groups_in)])


def _named_by_attributes(
    groups: Sequence[tuple[str, Layer]], groups_in: Callable[[Functional], list[tuple[str, Layer]]]
) -> Iterator[tuple[str, Layer]]:
    """Groups in files of KerasNLP 0.6, whose models hold some of their layers by attributes, too.

    Keras 2 saves attributes in order of their names, each layer once: in 2.13 a task's `_backbone` comes before its
    layers. Later releases reverse the order: there a backbone's `token_embedding` does.
    """
    for path, model in groups:
        form = model.class_form if isinstance(model, Functional) else None
        if form is None:
            continue
        if form.backbone is not None:
            found = [(f"_backbone/{group}".rstrip("/"), layer) for group, layer in groups_in(form.backbone)]
        else:
            embeddings = (layer for layer in model.walk_layers() if isinstance(layer, ReversibleEmbedding))
            found = [("token_embedding", layer) for layer in itertools.islice(embeddings, 1)]
        yield from ((f"{path}/{group}".lstrip("/"), layer) for group, layer in found)


def _by_path(
    model: Functional,
    order: FileOrder,
    tree: StateTree,
    problems: Diagnostics,
    version: str,
    only: Collection[Layer] | None = None,
) -> Iterator[_Match]:
    """Matches by Keras 3's layout. A layer in several models is stored in one of its groups, and may not be marked.

    Layers other than `only` are left out, if given.
    """
    groups: dict[Layer, list[str]] = {}
    placed = list(_groups(model, order, version))
    for path, layer in placed:
        if layer.own_weights and (only is None or layer in only):
            groups.setdefault(layer, []).append(variables_path(path, layer))
    found: dict[Layer, list[StoredArray]] = {}
    for layer, paths in groups.items():
        candidates = (_variables(tree, path, placed_variables(layer)) for path in paths)
        found[layer] = next((arrays for arrays in candidates if arrays), [])
    if not all(found.values()) and version.startswith(("2.14.", "2.15.")):
        found = _counted_once(model, order, tree) or found
    identities = {} if all(found.get(layer) for layer in groups) else _places(placed)
    twins = {identity: arrays for layer, identity in identities.items() if (arrays := found.get(layer))}
    for layer, paths in groups.items():
        weights = placed_variables(layer)
        arrays = found.get(layer) or twins.get(identities.get(layer))
        if arrays is None:
            problems.add(f"{_label(layer)}: has no weights in the file (looked in '{paths[0]}')")
        elif len(arrays) != len(weights):
            cause = _ZERO_POINTS if _lacks_zero_points(layer, len(weights) - len(arrays)) else ""
            problems.add(f"{_label(layer)}: has {len(arrays)} weights in the file, expected {len(weights)}{cause}")
        else:
            if isinstance(layer, (LSTM, GRU)):
                arrays = from_cudnn(layer, weights, arrays)
            layer.fit_stored_shapes([array.shape for array in arrays])
            if (lora := layer.lora) is not None and (added := _named_lora(tree, groups[layer], layer)) is not None:
                arrays = [unmerged(layer, w, array, *added) for w, array in zip(weights, arrays, strict=True)]
                weights, arrays = [*weights, lora.a, lora.b], [*arrays, *added]
            yield from (_Match(layer, weight, array) for weight, array in zip(weights, arrays, strict=True))


#: Keras can't load such files itself.
_ZERO_POINTS = "; Keras 3.14 and 3.15 write no zero points of GPTQ and AWQ into a .keras, expected an .h5"


def _lacks_zero_points(layer: Layer, missing: int) -> bool:
    quantization = layer.dtype_policy.quantization
    return missing == 1 and quantization is not None and quantization.mode in ("gptq", "awq")


def _of_preset(
    model: Functional,
    backbone: Functional,
    order: FileOrder,
    archive: ModelArchive,
    tree: StateTree,
    problems: Diagnostics,
    version: str,
) -> Iterator[_Match]:
    """Matches a task and its backbone, whose weights are in two files, each with groups from its own root on."""
    yield from _by_path(backbone, order, tree, problems, version)
    inside = set(backbone.walk_layers())
    own = [layer for layer in model.walk_layers() if layer not in inside and layer.own_weights]
    if archive.task_weights is not None:
        yield from _by_path(model, order, archive.task_weights, problems, version, own)
    else:
        for layer in own:
            problems.add(f"{_label(layer)}: has no weights in the preset")


def _counted_once(model: Functional, order: FileOrder, tree: StateTree) -> dict[Layer, list[StoredArray]] | None:
    """Arrays by layer if layers that several models share are counted once (Keras 2.14 and 2.15).

    None if some layers would have no arrays.
    """
    identity = functools.cache(_identity)
    found = {
        layer: _variables(tree, variables_path(path, layer), placed_variables(layer))
        for path, layer in state_groups_once(model, order, identity, naming=keras2_group_name)
        if layer.own_weights
    }
    return found if all(found.values()) else None


def _identity(layer: Layer) -> tuple[type, str, str]:
    """Equal for layers that were one layer in the Keras that wrote the file, which stored their weights once."""
    try:
        config = repr(layer.get_config())
    except ConfigError:
        # A Lambda, which no file names: it is within a layer of code, and has no weights.
        config = ""
    return type(layer), layer.name, config


def _places(placed: Sequence[tuple[str, Layer]]) -> dict[Layer, Hashable]:
    """Identities of the layers with weights. For a layer in a wrapper: the wrapper's identity and the position in it,
    as the two directions of a Bidirectional may be equal.
    """
    at = dict(placed)
    identity = functools.cache(_identity)
    places: dict[Layer, Hashable] = {}
    for path, layer in placed:
        head, model_layers, tail = path.rpartition("layers/")
        member, _, inside = tail.partition("/")
        if layer.own_weights:
            places[layer] = (identity(at.get(head + model_layers + member, layer)), inside)
    return places


def _spellings(path: str) -> Iterator[str]:
    """The path of a group in all releases that have this layout."""
    # Keras 2.15 has a leading underscore in names of attention projections; its cuDNN layers have no cell.
    for spelt in (path, re.sub(r"/(\w+_dense/vars)$", r"/_\1", path), path.replace("/cell/vars", "/vars")):
        for form in (spelt, spelt.replace("layers/", _LAYERS_OF_2_13)):
            yield form
            # Keras 2.13 to 2.15 on Windows: one group, whose name has backslashes, and in it `vars`.
            place, _, last = form.rpartition("/")
            yield place.replace("/", "\\") + "/" + last


def _variables(tree: StateTree, path: str, weights: Sequence[Weight]) -> list[StoredArray]:
    """The arrays of a group, which are named by index or, in some releases, by name; empty if there is no group."""
    group = next((group for spelt in _spellings(path) if (group := tree.root.group(spelt)) is not None), None)
    count = 0 if group is None else len(group)
    if group is None or count == 0:
        return []
    arrays = [array for position in range(count) if (array := group.array(str(position))) is not None]
    if not arrays and count == len(weights):
        arrays = [array for weight in weights if (array := group.array(weight.name)) is not None]
    return arrays


def _by_order(
    model: Functional,
    order: FileOrder,
    stored: Mapping[str, Sequence[StoredArray]],
    origin: Origin,
    problems: Diagnostics,
) -> Iterator[_Match]:
    """Matches by the legacy layout: layers by name if all names match, otherwise by order, as names may be wrong."""
    left_out = left_out_of_keras3_h5(model) if origin.keras3 else set[Weight]()
    layers = [layer for layer in layers_of(model, order) if not left_out.issuperset(depth_first(layer, order))]
    by_name = {layer.name: layer for layer in layers}
    if stored and not model.built:
        problems.add(f"model {short_name(model.name)}: has no input shape, expected one in its first layer")
        return
    if by_name.keys() != stored.keys() and len(layers) != len(stored):
        absent = [name for name in by_name if name not in stored] or [name for name in stored if name not in by_name]
        text = f"the file has weights of {len(stored)} layers, expected {len(layers)}"
        problems.add(f"{text}; without counterpart: {', '.join(short_name(name) for name in absent[:20])}")
        return
    named = by_name.keys() == stored.keys()
    owned = [by_name[name] for name in stored] if named else layers
    owners = {weight: inner for _, inner in state_groups(model, order) for weight in inner.own_weights}
    for layer, (group, given) in zip(owned, stored.items(), strict=True):
        orders = [[weight for weight in weights if weight not in left_out] for weights in legacy_orders(layer, order)]
        found: Sequence[StoredArray] = merged_lora(layer, given) if origin.keras3 else given
        candidates = [(weights, modern(weights, owners, found, origin)) for weights in orders]
        weights, arrays = max(candidates, key=lambda candidate: _match_score(*candidate))
        if len(weights) != len(arrays):
            problems.add(f"{_label(layer)}: has {len(arrays)} weights in the file, expected {len(weights)}")
        else:
            shapes = {weight: array.shape for weight, array in zip(weights, arrays, strict=True)}
            for inner in layer.walk_layers():
                if inner.own_weights and all(weight in shapes for weight in inner.own_weights):
                    inner.fit_stored_shapes([shapes[weight] for weight in placed_variables(inner)])
            yield from (_Match(layer, weight, array, group) for weight, array in zip(weights, arrays, strict=True))


def _by_position(
    model: Functional, order: FileOrder, sharded: ArrayList, origin: Origin, problems: Diagnostics
) -> Iterator[_Match]:
    """Matches arrays of TensorFlow.js whose names don't identify layers: trainable weights first, or layer by layer."""
    owners = {weight: inner for _, inner in state_groups(model, order) for weight in inner.own_weights}
    candidates = legacy_orders(model, order)
    layers = layers_of(model, order)
    for sequence in (layers, sorted(layers, key=lambda layer: layer.name)):
        by_layer = [weight for layer in sequence for weight in legacy_orders(layer, order)[0]]
        candidates.append(list(dict.fromkeys(by_layer)))
    rows = [(weights, modern(weights, owners, sharded.arrays, origin)) for weights in candidates]
    weights, arrays = max(rows, key=lambda row: _match_score(*row))
    if len(weights) != len(arrays):
        problems.add(f"the file has {len(arrays)} weights, expected {len(weights)}")
        return
    yield from (_Match(owners[weight], weight, array) for weight, array in zip(weights, arrays, strict=True))


def _match_score(weights: Sequence[Weight], arrays: Sequence[StoredArray]) -> tuple[int, int]:
    """Numbers of matching shapes and of matching names."""
    pairs = list(zip(weights, arrays, strict=False))
    shapes = sum(weight.shape == array.shape for weight, array in pairs)
    return shapes, sum(weight.name == array.name.rpartition("/")[2].partition(":")[0] for weight, array in pairs)


def _compare(matches: Sequence[_Match], problems: Diagnostics) -> None:
    for match in matches:
        weight, array = match.weight, match.array
        if array.shape != weight.shape:
            problems.add(
                f"{_label(match.layer)}: weight '{weight.name}' has shape {array.shape} in the file, "
                f"expected {weight.shape}"
            )
        elif _kind(array.dtype) != _kind(weight.dtype):
            problems.add(
                f"{_label(match.layer)}: weight '{weight.name}' has dtype {array.dtype} in the file, "
                f"expected {weight.dtype}"
            )


def _kind(dtype: str) -> str:
    return _KINDS.get(dtype.rstrip("0123456789"), dtype)


def _check_budget(matches: Sequence[_Match], archive: ModelArchive) -> None:
    """Limits the total size: a few stored bytes may be referenced many times, or not be allocated at all."""
    wanted = sum(match.array.nbytes for match in matches)
    most = archive.limits.inflated_bytes(archive.stored_bytes)
    if wanted > most:
        text = f"its weights take {wanted} bytes, at most {most} are read from a file of {archive.stored_bytes} bytes"
        raise CorruptFileError(Path(archive.path), text)


def _label(layer: Layer) -> str:
    return f"layer {short_name(layer.name)} ({type(layer).__name__})"
