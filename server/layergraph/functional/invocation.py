"""Calls of layers: analysed once from the symbolic call, executed many times with values.

Shape inference, the plan and an eager call execute the same `Invocation`, so they can't disagree.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from layergraph.config.keras2_releases import PASSES_OWN, UNCAST
from layergraph.config.spec import NO_MASK
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.nest import Structure, flatten, map_structure
from layergraph.functional.tensor import Shape, Tensor

if TYPE_CHECKING:
    from layergraph.functional.layer import Layer

#: A boolean tensor, False at timesteps to skip, or None.
Mask: TypeAlias = "torch.Tensor | None"

#: Number of arguments whose masks MultiHeadAttention removes: query, value and key.
_REMOVED = 3


class _Slot(int):
    """Placeholder for the i-th tensor in a template of arguments."""


class _Given(int):
    """Placeholder in a template of masks for the i-th tensor itself, which the call passes as a mask."""


def _without(source: Structure, indices: Collection[int]) -> Structure:
    """Returns a template of arguments with None in place of these tensors."""
    return map_structure(lambda leaf: None if isinstance(leaf, _Slot) and leaf in indices else leaf, source)


class Invocation:
    """A call of `layer`, ready to be executed.

    Values and masks are flat lists, in the order of the tensors in `[args, kwargs]`; outputs are flat lists, too. Masks
    are passed to the layer as in Keras 3: with one argument that holds tensors, as `mask`; with several, as
    `<argument>_mask`; a mask given by the caller takes precedence, and `NO_MASK` suppresses the inputs' masks. A layer
    that finds masks (`finds_masks`) also gets `tensor_masks`: those that the tensors of each argument have.
    """

    __slots__ = (
        "_args",
        "_arrays",
        "_bare",
        "_casts",
        "_constants",
        "_found",
        "_kwargs",
        "_masks",
        "_previous",
        "_single",
        "layer",
        "tensors",
        "training",
        "unmasked",
        "untaken",
    )

    def __init__(
        self, layer: Layer, args: tuple[Structure, ...], kwargs: dict[str, Structure], training: bool | None = None
    ) -> None:
        self.layer = layer
        self.training = training
        self.tensors: list[Tensor] = []
        self._args = tuple(map_structure(self._slot, arg) for arg in args)
        #: Whether the masks of the inputs are suppressed.
        self.unmasked = kwargs.get("mask") is NO_MASK
        #: Indices of the tensors whose masks `without_taking` has removed.
        self.untaken: frozenset[int] = frozenset()
        named = {name: value for name, value in kwargs.items() if value is not NO_MASK}
        self._kwargs = {name: map_structure(self._slot, named[name]) for name in sorted(named)}
        self._single = len(args) == 1 and isinstance(args[0], Tensor) and not kwargs
        #: Positions and names of constants that an operation's `forward` takes as tensors.
        self._constants = self._find_constants() if layer.is_operation else frozenset()
        #: Whether an argument is an array. Operations convert other arrays themselves.
        self._arrays = not layer.is_operation and any(isinstance(leaf, np.ndarray) for leaf in flatten([args, named]))
        self._casts = self._find_casts()
        #: The tensors whose masks are lost, since they are cast.
        self._bare = frozenset(index for index, _ in self._casts) if layer.mask_use in UNCAST else frozenset()
        holders = {} if self.unmasked or not layer.uses_masks else self._find_holders()
        self._masks = self._find_masks(holders)
        #: The arguments whose tensors' masks the layer finds by itself.
        self._found = holders if layer.finds_masks else {}
        #: The arguments whose masks are passed on.
        self._previous = self._find_previous()

    def _slot(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        self.tensors.append(leaf)
        return _Slot(len(self.tensors) - 1)

    def _find_constants(self) -> frozenset[int | str]:
        names = self.layer.call_argument_names
        given: dict[Any, Structure] = {**dict(enumerate(self._args)), **self._kwargs}
        return frozenset(
            key
            for key, value in given.items()
            if isinstance(value, (bool, int, float, list, np.ndarray))
            and (names[key] if isinstance(key, int) and key < len(names) else key) in self.layer.tensor_argument_names
            and not any(isinstance(leaf, _Slot) for leaf in flatten(value))
        )

    def _find_casts(self) -> list[tuple[int, torch.dtype]]:
        """Finds floating-point inputs to cast to the layer's compute dtype, as Keras's autocast does."""
        wanted = self.layer.compute_dtype
        if not self.layer.autocast or not torch_dtype(wanted).is_floating_point:
            return []
        return [
            (i, torch_dtype(wanted))
            for i, tensor in enumerate(self.tensors)
            if tensor.dtype != wanted and tensor.dtype.startswith(("float", "bfloat"))
        ]

    @property
    def _given(self) -> dict[str, Structure]:
        """The arguments by name."""
        return {**dict(zip(self.layer.call_argument_names, self._args, strict=False)), **self._kwargs}

    def _find_holders(self) -> dict[str, Structure]:
        """Finds the arguments that hold tensors."""
        return {
            name: _without(value, self._bare)
            for name, value in self._given.items()
            if any(isinstance(leaf, _Slot) for leaf in flatten(value))
        }

    def _find_masks(self, holders: dict[str, Structure]) -> dict[str, Structure]:
        """Maps mask parameters of `forward` to the arguments whose masks they take."""
        given, accepted = self._given, self.layer.mask_argument_names
        if len(holders) == 1:
            name, value = next(iter(holders.items()))
            return {"mask": value} if "mask" in accepted and given.get("mask") is None and name != "mask" else {}
        return {
            f"{name}_mask": value
            for name, value in holders.items()
            if f"{name}_mask" in accepted and given.get(f"{name}_mask") is None
        }

    def _find_previous(self) -> Structure:
        """Finds the masks that are passed on: those given as arguments, or those of the first argument."""
        first = self._args[0] if self._args else next(iter(self._kwargs.values()), None)
        given = self._kwargs.get("mask")
        if self.layer.inner_model is None:
            if self.unmasked:
                return None
            if given is None or self.layer.mask_use in PASSES_OWN:
                return _without(first, self._bare)
            return map_structure(_as_given, given)
        parts = flatten(first)
        if self.unmasked or given is None:
            return [None if self.unmasked else part for part in parts]
        masks = flatten(given)
        if len(masks) != len(parts):
            raise GraphError(f"model '{self.layer.name}': got {len(masks)} masks, expected {len(parts)}")
        # Where no mask is given for an input of a model, the input's own mask is used.
        return [part if mask is None else _as_given(mask) for part, mask in zip(parts, masks, strict=True)]

    @property
    def previous_masks(self) -> list[tuple[Tensor, bool] | None]:
        """For each mask passed on, in flat order: the tensor, and whether the tensor itself is the mask."""
        return [
            (self.tensors[leaf], isinstance(leaf, _Given)) if isinstance(leaf, (_Slot, _Given)) else None
            for leaf in flatten(self._previous)
        ]

    @property
    def previous_shapes(self) -> list[Shape | None]:
        """Shapes of the masks passed on, in flat order."""
        return [
            None if source is None else source[0].shape if source[1] else source[0].mask_shape
            for source in self.previous_masks
        ]

    @property
    def without_masks(self) -> list[Tensor]:
        """Tensors whose masks the call loses, since it casts them: in Keras 3.5 to 3.13."""
        return [self.tensors[index] for index in sorted(self._bare)]

    @property
    def cast(self) -> frozenset[int]:
        """Indices of the tensors that the call casts."""
        return frozenset(index for index, _ in self._casts)

    @property
    def passes_on(self) -> frozenset[int]:
        """Indices of the tensors whose masks the outputs' masks are made of."""
        return frozenset(leaf for leaf in flatten(self._previous) if isinstance(leaf, _Slot))

    @property
    def removed(self) -> frozenset[int]:
        """Indices of the tensors whose masks the layer removes. A cast tensor is another one, and keeps its mask."""
        if not self.layer.removes_masks:
            return frozenset()
        return frozenset(leaf for leaf in flatten(list(self._args[:_REMOVED])) if isinstance(leaf, _Slot)) - self.cast

    def without_taking(self, indices: Iterable[int]) -> Invocation:
        """Returns the call without these tensors' masks among its arguments. Its outputs' masks stay."""
        made = copy(self)
        made.untaken = frozenset(indices)
        made._masks = {name: _without(source, made.untaken) for name, source in self._masks.items()}
        return made

    def without_finding(self, indices: Collection[int]) -> Invocation:
        """Returns the call of a layer that doesn't find masks of these tensors. Masks among its arguments stay."""
        made = copy(self)
        made._found = {name: _without(source, indices) for name, source in self._found.items()}
        return made

    def without_passing_on(self, indices: Collection[int]) -> Invocation:
        """Returns the call whose outputs' masks are made without those of these tensors."""
        made = copy(self)
        made._previous = _without(self._previous, indices)
        return made

    @property
    def template(self) -> tuple[tuple[Structure, ...], dict[str, Structure]]:
        """The arguments, with an index in place of each tensor."""
        return self._args, self._kwargs

    def arguments(self, tensors: Sequence[Tensor]) -> tuple[tuple[Structure, ...], dict[str, Structure]]:
        """The arguments of an equal call on other tensors, which come in the order of `tensors`."""
        args = tuple(_fill(arg, tensors) for arg in self._args)
        kwargs = {name: _fill(value, tensors) for name, value in self._kwargs.items()}
        if self.unmasked:
            kwargs["mask"] = NO_MASK
        if self.training is not None:
            kwargs["training"] = self.training
        return args, kwargs

    def positions(self, argument: str) -> list[int]:
        """Indices of the tensors in the argument of this name."""
        return [int(leaf) for leaf in flatten(self._given.get(argument)) if isinstance(leaf, _Slot)]

    @property
    def starts_with_constant(self) -> bool:
        """Whether the first argument holds no tensor."""
        return bool(self._args) and not any(isinstance(leaf, _Slot) for leaf in flatten(self._args[0]))

    @property
    def is_single(self) -> bool:
        """Whether the call takes one tensor, without a cast, and nothing else."""
        return self._single and not self._casts

    @property
    def takes_masks(self) -> bool:
        """Whether `forward` takes masks of its inputs."""
        return bool(self._masks or self._found)

    @property
    def mask_sources(self) -> dict[str, Structure]:
        """Maps mask parameters of `forward` to the symbolic tensors, or nested tensors, whose masks they take."""
        return {name: _fill(source, self.tensors) for name, source in self._masks.items()}

    def __call__(
        self, context: CallContext, w: Any, values: list[torch.Tensor], masks: list[Mask], *, want_masks: bool
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """Executes the call: returns flat outputs and their masks.

        `w` holds the layer's bound weights. `masks` may be all None if neither the layer nor `want_masks` needs them.
        Without `want_masks` the returned masks are None.
        """
        outputs, output_masks = self.structured(context, w, values, masks, want_masks=want_masks)
        return [outputs] if isinstance(outputs, torch.Tensor) else flatten(outputs), output_masks

    def structured(
        self, context: CallContext, w: Any, values: list[torch.Tensor], masks: list[Mask], *, want_masks: bool
    ) -> tuple[Structure, list[Mask]]:
        """Like calling it, with the outputs in the structure that `forward` has returned."""
        if self.training is not None:
            context = context.as_training(self.training)
        if self._casts:
            values = list(values)
            for index, dtype in self._casts:
                values[index] = values[index].to(dtype)
        if self._single and not self.takes_masks and not want_masks:
            outputs, output_masks = self.layer.execute(context, w, (values[0],), {}, None, want_masks=False)
        else:
            args = tuple(_fill(arg, values) for arg in self._args)
            kwargs = {name: _fill(value, values) for name, value in self._kwargs.items()}
            if self._constants:
                device = values[0].device
                args = tuple(constant(arg, device) if i in self._constants else arg for i, arg in enumerate(args))
                kwargs = {k: constant(v, device) if k in self._constants else v for k, v in kwargs.items()}
            if self._arrays:
                device = values[0].device
                args, kwargs = map_structure(lambda leaf: _as_tensor(leaf, device), (args, kwargs))
            for name, source in self._masks.items():
                kwargs[name] = _fill(source, masks)
            if self._found:
                kwargs["tensor_masks"] = _fill(self._found, masks)
            previous = _fill(self._previous, masks, values)
            outputs, output_masks = self.layer.execute(context, w, args, kwargs, previous, want_masks=want_masks)
        if isinstance(outputs, torch.Tensor):
            return outputs, [output_masks if want_masks else None]
        count = len(flatten(outputs))
        if not want_masks or output_masks is None:
            return outputs, [None] * count
        flat_masks = flatten(output_masks)
        return outputs, [*flat_masks, *[None] * (count - len(flat_masks))][:count]


def constant(value: Any, device: torch.device) -> torch.Tensor:
    """A constant of a call as a tensor. Python's integers are int32, as in Keras."""
    made = torch.as_tensor(value)
    is_python = not isinstance(value, np.ndarray)
    return made.to(device, torch.int32 if is_python and made.dtype is torch.int64 else made.dtype)


def _as_tensor(leaf: Any, device: torch.device) -> Any:
    return torch.from_numpy(leaf).to(device) if isinstance(leaf, np.ndarray) else leaf


def _as_given(leaf: Any) -> Any:
    if leaf is NO_MASK:
        return None
    return _Given(leaf) if isinstance(leaf, _Slot) else leaf


def _fill(template: Structure, leaves: Sequence[Any], given: Sequence[Any] = ()) -> Structure:
    """Returns the template with every placeholder replaced by its leaf; other leaves stay."""
    if isinstance(template, _Slot):
        return leaves[template]
    if isinstance(template, _Given):
        return given[template]
    if not isinstance(template, (dict, list, tuple)):
        return template
    return map_structure(lambda leaf: _fill(leaf, leaves, given), template)
