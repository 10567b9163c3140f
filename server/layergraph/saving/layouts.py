"""Positions of a model's weights in files: by class and index in Keras 3's layout, by order in the legacy one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

from layergraph import plugins
from layergraph.config.names import snake_case
from layergraph.functional.functional import Functional
from layergraph.functional.layer import Layer
from layergraph.functional.sublayers import last_paths
from layergraph.functional.weight import Weight
from layergraph.layers.hub.table import LAYERS as HUB_LAYERS
from layergraph.layers.hub.table import PACKAGE
from layergraph.layers.table import LAYERS

#: For each model, its layers in the order in which its file numbers them.
FileOrder = Mapping[Functional, Sequence[Layer]]


def class_name(layer: Layer) -> str:
    """The class name in Keras 2 files: `package>Name` for a registered class."""
    return registered_name(layer) or layer.keras_class_name


def registered_name(layer: Layer) -> str | None:
    """`package>Name` of a class of KerasHub's or of a plugin; None for other classes, including subclasses of one."""
    kind = type(layer)
    hub_name = f"{PACKAGE}{kind.__name__}"
    if HUB_LAYERS.get(hub_name) is kind:
        return hub_name
    return None if LAYERS.get(kind.__name__) is kind else plugins.registered_name(kind)


def layers_of(model: Functional, order: FileOrder) -> Sequence[Layer]:
    """The layers of a model in the order of its file; in Keras's order for a model created in Python."""
    known = order.get(model)
    return model.layers if known is None else known


def group_name(layer: Layer) -> str:
    """Base name, without a number, of a layer's group."""
    return layer.group_name


def keras2_group_name(layer: Layer) -> str:
    """The same in the file of Keras 2 that the layer came from, by its class there, such as SyncBatchNormalization."""
    form = None if isinstance(layer, Functional) or layer.own_class_name else layer.stored_form
    return layer.group_name if form is None else snake_case(form.content["class_name"])


def state_groups(
    root: Layer,
    order: FileOrder,
    times: Callable[[Layer], int] = lambda layer: 1,
    *,
    last: bool = False,
    naming: Callable[[Layer], str] = group_name,
) -> Iterator[tuple[str, Layer]]:
    """Yields each layer with its group in a `.weights.h5`, e.g. ("layers/conv2d_1", layer), depth-first as Keras does.

    A custom layer may hold a layer by several attributes: its group is named by the `last` one or else the first.

    A layer that several models share is yielded with each of its groups, but layers inside of it only once, as Keras
    saves them in the first group. `times` is how often a layer counts in the numbering of its class, and `naming` gives
    the names of groups.
    """
    waiting: list[tuple[str, Layer]] = [("", root)]
    seen: set[Layer] = set()
    while waiting:
        path, layer = waiting.pop()
        yield path, layer
        if layer in seen:
            continue
        seen.add(layer)
        waiting.extend(reversed(list(_under(path, _members(layer, order, times, naming, last=last)))))


def state_groups_once(
    root: Layer,
    order: FileOrder,
    identity: Callable[[Layer], Hashable],
    *,
    last: bool = False,
    naming: Callable[[Layer], str] = group_name,
) -> Iterator[tuple[str, Layer]]:
    """Like `state_groups`, but layers of a model with the `identity` of an earlier one aren't counted again.

    Layers inside of a wrapper are always separate: the two directions of a Bidirectional may be equal.
    """
    seen: set[Hashable] = set()
    visited: set[Layer] = set()
    # How a model's layers are counted depends on everything inside the layers before them.
    walks: list[Iterator[tuple[str, Layer]]] = [iter([("", root)])]
    while walks:
        step = next(walks[-1], None)
        if step is None:
            walks.pop()
            continue
        path, layer = step
        if layer in visited:
            continue
        visited.add(layer)
        seen.add(identity(layer))
        yield path, layer
        members = _members(layer, order, lambda inner: int(identity(inner) not in seen), naming, last=last)
        walks.append(_under(path, members))


def _under(path: str, members: Iterator[tuple[str, Layer]]) -> Iterator[tuple[str, Layer]]:
    for name, inner in members:
        yield f"{path}/{name}" if path else name, inner


def _members(
    layer: Layer, order: FileOrder, times: Callable[[Layer], int], naming: Callable[[Layer], str], *, last: bool
) -> Iterator[tuple[str, Layer]]:
    if not isinstance(layer, Functional):
        yield from (last_paths(layer) if last else layer.sublayers).items()
        return
    used: Counter[str] = Counter()
    for inner in layers_of(layer, order):
        name, counted = naming(inner), times(inner)
        if counted:
            yield f"layers/{name}" + (f"_{used[name]}" if used[name] else ""), inner
            used[name] += counted


def variables_path(group: str, layer: Layer) -> str:
    """The group of a layer's own variables, which are named by their index in `own_variables`."""
    return "/".join(part for part in (group, *layer.storage.path, "vars") if part)


def own_variables(layer: Layer) -> list[Weight]:
    """A layer's own weights in the order of files: usually those created as trainable first, even if frozen since."""
    if layer.storage.as_made:
        return list(layer.own_weights)
    return sorted(layer.own_weights, key=lambda weight: not weight.created_trainable)


def placed_variables(layer: Layer) -> list[Weight]:
    """A layer's own weights in Keras 3's layout, where LoRA weights have names instead of positions."""
    lora = layer.lora
    return [weight for weight in own_variables(layer) if lora is None or weight not in (lora.a, lora.b)]


def depth_first(layer: Layer, order: FileOrder) -> list[Weight]:
    """All distinct weights of a layer: its own, then those of layers inside of it, in the order of the file."""
    found: dict[Weight, None] = {}
    for _, inner in state_groups(layer, order):
        found.update(dict.fromkeys(own_variables(inner)))
    return list(found)


def legacy_order(layer: Layer, order: FileOrder) -> list[Weight]:
    """A layer's weights in the order of legacy H5 files: trainable ones, then the others."""
    weights = depth_first(layer, order)
    return _partitioned(weights, [weight.trainable for weight in weights])


def left_out_of_keras3_h5(root: Layer) -> set[Weight]:
    """Weights that Keras 3 doesn't write into an `.h5`."""
    return {
        weight
        for layer in root.walk_layers()
        for weight in layer.own_weights
        if not layer.storage.in_keras3_h5 or weight.name in layer.storage.keras2_weights
    }


def legacy_orders(layer: Layer, order: FileOrder) -> list[list[Weight]]:
    """Orders in which releases of Keras have written a layer's weights, the most likely first.

    They differ if a layer in a model is frozen, or was frozen only after the model was built.
    """
    plain = depth_first(layer, order)
    by_creation = _partitioned(plain, [weight.created_trainable for weight in plain])
    orders = [legacy_order(layer, order), plain, by_creation]
    return [known for i, known in enumerate(orders) if known not in orders[:i]]


def _partitioned(weights: Sequence[Weight], first: Sequence[bool]) -> list[Weight]:
    pairs = list(zip(weights, first, strict=True))
    return [weight for weight, leads in pairs if leads] + [weight for weight, leads in pairs if not leads]
