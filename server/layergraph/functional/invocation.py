"""How a layer is called: analysed once from the symbolic call, carried out many times with values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from layergraph.config.spec import NO_MASK
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.nest import Structure, flatten, map_structure
from layergraph.functional.tensor import Shape, Tensor

if TYPE_CHECKING:
    from layergraph.functional.layer import Layer

#: A boolean tensor that says which steps count, or None.
Mask: TypeAlias = "torch.Tensor | None"


class _Slot(int):
    """Stands in a template of arguments where the i-th tensor goes."""


class _Given(int):
    """Stands in a template of masks where the i-th tensor itself goes, which the call names as a mask."""


class Invocation:
    """A call of `layer`, ready to be carried out.

    Values and masks go in as flat lists, in the order of the tensors in `[args, kwargs]`, and come out as flat lists in
    the order of the outputs. Which masks reach the layer follows Keras 3: with one argument that holds tensors, `mask`;
    with several, `<argument>_mask`; a mask that the caller gives goes before, and `NO_MASK` says that none goes in.
    """

    __slots__ = (
        "_args",
        "_arrays",
        "_casts",
        "_kwargs",
        "_masks",
        "_previous",
        "_single",
        "layer",
        "tensors",
        "training",
        "unmasked",
    )

    def __init__(
        self, layer: Layer, args: tuple[Structure, ...], kwargs: dict[str, Structure], training: bool | None = None
    ) -> None:
        self.layer = layer
        self.training = training
        self.tensors: list[Tensor] = []
        self._args = tuple(map_structure(self._slot, arg) for arg in args)
        #: Whether the masks that come with the inputs stay outside.
        self.unmasked = kwargs.get("mask") is NO_MASK
        said = {name: value for name, value in kwargs.items() if value is not NO_MASK}
        self._kwargs = {name: map_structure(self._slot, said[name]) for name in sorted(said)}
        self._single = len(args) == 1 and isinstance(args[0], Tensor) and not kwargs
        #: Whether an array stands in the call itself. Operations take them as they are.
        self._arrays = not layer.is_operation and any(isinstance(leaf, np.ndarray) for leaf in flatten([args, said]))
        self._casts = self._find_casts()
        self._masks = {} if self.unmasked else self._find_masks()
        #: Whose masks the layer passes on.
        self._previous = self._find_previous()

    def _slot(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        self.tensors.append(leaf)
        return _Slot(len(self.tensors) - 1)

    def _find_casts(self) -> list[tuple[int, torch.dtype]]:
        """Floating-point inputs in another type than the layer computes in are converted, as Keras's autocast does."""
        wanted = self.layer.compute_dtype
        if not self.layer.autocast or not torch_dtype(wanted).is_floating_point:
            return []
        return [
            (i, torch_dtype(wanted))
            for i, tensor in enumerate(self.tensors)
            if tensor.dtype != wanted and tensor.dtype.startswith(("float", "bfloat"))
        ]

    def _find_masks(self) -> dict[str, Structure]:
        """Parameter of `forward` -> the argument whose masks go there."""
        names = self.layer.call_argument_names
        given = {**dict(zip(names, self._args, strict=False)), **self._kwargs}
        holders = {n: v for n, v in given.items() if any(isinstance(leaf, _Slot) for leaf in flatten(v))}
        accepted = self.layer.mask_argument_names
        if len(holders) == 1:
            name, value = next(iter(holders.items()))
            return {"mask": value} if "mask" in accepted and given.get("mask") is None and name != "mask" else {}
        return {
            f"{name}_mask": value
            for name, value in holders.items()
            if f"{name}_mask" in accepted and given.get(f"{name}_mask") is None
        }

    def _find_previous(self) -> Structure:
        """The masks that the call names, or those of its first argument."""
        first = self._args[0] if self._args else next(iter(self._kwargs.values()), None)
        given = self._kwargs.get("mask")
        if self.layer.inner_model is None:
            if self.unmasked:
                return None
            return first if given is None else map_structure(_as_given, given)
        parts = flatten(first)
        if self.unmasked or given is None:
            return [None if self.unmasked else part for part in parts]
        masks = flatten(given)
        if len(masks) != len(parts):
            raise GraphError(f"model '{self.layer.name}': got {len(masks)} masks, expected {len(parts)}")
        # Where a model's call names none, the mask that comes along goes in.
        return [part if mask is None else _as_given(mask) for part, mask in zip(parts, masks, strict=True)]

    @property
    def previous_masks(self) -> list[tuple[Tensor, bool] | None]:
        """For each mask that goes in and on, in flat order: the tensor, and whether it is itself the mask."""
        return [
            (self.tensors[leaf], isinstance(leaf, _Given)) if isinstance(leaf, (_Slot, _Given)) else None
            for leaf in flatten(self._previous)
        ]

    @property
    def previous_shapes(self) -> list[Shape | None]:
        """Shapes of the masks that go in and on, in flat order."""
        return [
            None if source is None else source[0].shape if source[1] else source[0].mask_shape
            for source in self.previous_masks
        ]

    @property
    def template(self) -> tuple[tuple[Structure, ...], dict[str, Structure]]:
        """The arguments, with a number in place of each tensor."""
        return self._args, self._kwargs

    @property
    def is_single(self) -> bool:
        """Whether the call takes one tensor and nothing else, as it comes."""
        return self._single and not self._casts

    @property
    def takes_masks(self) -> bool:
        """Whether `forward` is given masks of its inputs."""
        return bool(self._masks)

    @property
    def mask_sources(self) -> dict[str, Structure]:
        """Parameter of `forward` that takes masks -> the symbolic tensor, or nesting of them, whose masks go there."""
        return {name: _fill(source, self.tensors) for name, source in self._masks.items()}

    def __call__(
        self, context: CallContext, w: Any, values: list[torch.Tensor], masks: list[Mask], *, want_masks: bool
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """Carries the call out.

        `w` holds the layer's bound weights. `masks` may be all None where neither layer nor `want_masks` needs them.
        Without `want_masks` the masks that come back are None.
        """
        if self.training is not None:
            context = context.as_training(self.training)
        if self._casts:
            values = list(values)
            for index, dtype in self._casts:
                values[index] = values[index].to(dtype)
        if self._single and not self._masks and not want_masks:
            outputs, output_masks = self.layer.execute(context, w, (values[0],), {}, None, want_masks=False)
        else:
            args = tuple(_fill(arg, values) for arg in self._args)
            kwargs = {name: _fill(value, values) for name, value in self._kwargs.items()}
            if self._arrays:
                device = values[0].device
                args, kwargs = map_structure(lambda leaf: _as_tensor(leaf, device), (args, kwargs))
            for name, source in self._masks.items():
                kwargs[name] = _fill(source, masks)
            previous = _fill(self._previous, masks, values)
            outputs, output_masks = self.layer.execute(context, w, args, kwargs, previous, want_masks=want_masks)
        if isinstance(outputs, torch.Tensor):
            return [outputs], [output_masks if want_masks else None]
        flat = flatten(outputs)
        if not want_masks or output_masks is None:
            return flat, [None] * len(flat)
        flat_masks = flatten(output_masks)
        return flat, [*flat_masks, *[None] * (len(flat) - len(flat_masks))][: len(flat)]


def _as_tensor(leaf: Any, device: torch.device) -> Any:
    return torch.from_numpy(leaf).to(device) if isinstance(leaf, np.ndarray) else leaf


def _as_given(leaf: Any) -> Any:
    if leaf is NO_MASK:
        return None
    return _Given(leaf) if isinstance(leaf, _Slot) else leaf


def _fill(template: Structure, leaves: Sequence[Any], given: Sequence[Any] = ()) -> Structure:
    """The template with every slot replaced by its leaf; leaves that aren't slots stay."""
    if isinstance(template, _Slot):
        return leaves[template]
    if isinstance(template, _Given):
        return given[template]
    if not isinstance(template, (dict, list, tuple)):
        return template
    return map_structure(lambda leaf: _fill(leaf, leaves, given), template)
