"""Wrapper layers (keras.layers.TimeDistributed, Bidirectional), and the base class of custom ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from layergraph.config.options import one_of, option, optional, serialized
from layergraph.errors import ConfigError, GraphError
from layergraph.functional import scopes
from layergraph.functional.binding import Binder
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import dtype_name, torch_dtype
from layergraph.functional.invocation import Invocation
from layergraph.functional.layer import Layer
from layergraph.functional.nest import flatten, map_structure
from layergraph.functional.row_independence import may_mix_rows, rows_are_independent
from layergraph.functional.tensor import History, Tensor
from layergraph.functional.weights import Weights
from layergraph.layers.inner_layers import Holder, any_layer
from layergraph.layers.quantized.kernels import QuantizedLayer
from layergraph.plugins import custom_object_scope, registered_name


class Wrapper(Layer):
    """A layer around another, with which the `call` of a subclass computes as `self.layer` (keras.layers.Wrapper)."""

    layer: Layer = option(any_layer)

    def build(self, input_shape: Any = None) -> None:
        if not self.layer.built:
            self.layer.build(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Keras's config, in which the layer has the name of its class among registered ones."""
        described = {**serialized(self.layer), "registered_name": registered_name(type(self.layer))}
        return {**super().get_config(), "layer": described}


class TimeDistributed(Holder):
    """Applies a layer to each timestep: (rows, timesteps, ...) is reshaped to rows * timesteps rows
    (keras.layers.TimeDistributed).

    A mask (rows, timesteps, ...) is passed to a layer that takes one, per timestep, and is the output's mask.

    step_rule   scope of statistics, penalties and what else computes with several rows: each timestep's rows, one
                timestep after the other, in `keras3`; all rows * timesteps together in `keras2`. Set from the file's
                version
    """

    layer: Layer = option(any_layer)
    step_rule: str = option(one_of("keras3", "keras2"), default="keras3", kw_only=True, saved=False)

    def setup(self) -> None:
        self.hold(layer=self.layer)
        self._has_fixed_rows = False
        #: Whether the layer computes with several rows together; None before the first call.
        self._mixes_rows: bool | None = None

    def bind(self, binder: Binder) -> Any:
        """Returns the weights. Keras bypasses a quantized layer's own computation, so its kernel isn't scaled."""
        w = super().bind(binder)
        if isinstance(self.layer, QuantizedLayer):
            w.layer = self.layer.bind_unscaled(binder)
        return w

    def build_for(self, args: tuple[Any, ...]) -> None:
        """Builds the layer for a single timestep. Raises GraphError if the input's rank is below 3."""
        tensor = args[0]
        if not isinstance(tensor, Tensor) or len(tensor.shape) < 3:
            got = tensor.shape if isinstance(tensor, Tensor) else tensor
            raise GraphError(
                f"layer '{self.name}' (TimeDistributed): got {got}, expected a tensor (rows, timesteps, ...)"
            )
        self._has_fixed_rows = tensor.shape[0] is not None
        step = Tensor((tensor.shape[0], *tensor.shape[2:]), tensor.dtype, History(self, 0, 0))
        with scopes.building(self):
            self.layer.build_for((step,))
        super().build_for(args)

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        """Computes the layer's outputs for each timestep. Raises GraphError if the mask's shape doesn't fit."""
        rows, steps = inputs.shape[:2]
        flat_mask = None if mask is None else self._flat_mask(mask, inputs)
        if steps and self._goes_step_by_step(context, inputs):
            masks = [None] * steps if mask is None else mask.unbind(1)
            each = [self._inner(context, w["layer"], *one) for one in zip(inputs.unbind(1), masks, strict=True)]
            stacked = (torch.stack(parts, 1) for parts in zip(*map(flatten, each), strict=True))
            return map_structure(lambda _: next(stacked), each[0])
        flat = inputs.reshape(rows * steps, *inputs.shape[2:])
        outputs = self._inner(context, w["layer"], flat, flat_mask)
        return map_structure(lambda y: y.reshape(rows, steps, *y.shape[1:]), outputs)

    def execute(
        self,
        context: CallContext,
        w: Weights,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        previous_mask: Any,
        *,
        want_masks: bool,
    ) -> tuple[Any, Any]:
        """Computes outputs and mask: in Keras 2 the mask is the inner layer's, in Keras 3 that of the inputs."""
        outputs, mask = super().execute(context, w, args, kwargs, previous_mask, want_masks=want_masks)
        if not want_masks or self.step_rule == "keras3" or self._has_fixed_rows:
            return outputs, mask
        return outputs, self._inner_mask(context, w, args[0], mask)

    def _inner_mask(self, context: CallContext, w: Weights, inputs: torch.Tensor, mask: Any) -> Any:
        """The mask that the layer computes, for all timesteps (tf.keras.layers.TimeDistributed.compute_mask)."""
        rows, steps = inputs.shape[:2]
        flat = inputs.reshape(rows * steps, *inputs.shape[2:])
        flat_mask = None if mask is None else self._flat_mask(mask, inputs)
        if type(self.layer).execute is Layer.execute:
            made = self.layer.compute_mask(context, flat, flat_mask) if self.layer.supports_masking else None
        else:
            # Without statistics: `_inner` has run the model a second time for them.
            quiet = replace(context, losses=None, training=False)
            made = self.layer.execute(quiet, w["layer"], (flat,), {}, flat_mask, want_masks=True)[1]
        made = next((one for one in flatten(made) if one is not None), None)
        if made is not None:
            return made.reshape(rows, steps, *made.shape[1:])
        return mask if mask is None or mask.ndim <= 2 else mask.flatten(2).any(-1)

    def _goes_step_by_step(self, context: CallContext, inputs: torch.Tensor) -> bool:
        """Whether the layer is called per timestep, since it computes with several rows of a call together."""
        return self.step_rule == "keras3" and (self._measures(context) or self._mixes(inputs))

    def _mixes(self, inputs: torch.Tensor) -> bool:
        """Whether the layer's outputs for a row depend on the other rows of the timestep: tried on random rows."""
        if self._mixes_rows is None and type(inputs) is torch.Tensor and not inputs.is_meta:
            step = Tensor((None, *inputs.shape[2:]), dtype_name(inputs.dtype), History(self, 0, 0))
            self._mixes_rows = any(map(may_mix_rows, self.layer.walk_layers())) and not rows_are_independent(
                Invocation(self.layer, (step,), {})
            )
        return bool(self._mixes_rows)

    def _measures(self, context: CallContext) -> bool:
        inside = list(self.layer.walk_layers())
        if context.training and any(layer.keeps_statistics for layer in inside):
            return True
        penalised = any(layer.activity_regularizer is not None for layer in inside if layer is not self.layer)
        return context.losses is not None and penalised

    def _flat_mask(self, mask: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        if mask.ndim < 2 or (mask.shape[:2] != inputs.shape[:2] and not mask.is_meta):
            raise GraphError(
                f"got a mask of shape {tuple(mask.shape)}, expected one that starts with {tuple(inputs.shape[:2])}"
            )
        return mask.reshape(mask.shape[0] * mask.shape[1], *mask.shape[2:])

    def _inner(self, context: CallContext, w: Any, flat: torch.Tensor, mask: torch.Tensor | None) -> Any:
        if self.layer.inner_model is not None:
            outputs, _ = self.layer.execute(context, w, (flat,), {}, mask, want_masks=False)
            if self.step_rule == "keras2" and self._measures(context):
                # tf.keras runs the model a second time to compute the masks.
                self.layer.execute(context, w, (flat,), {}, mask, want_masks=False)
            return self.layer.output_structure(outputs)
        takes_mask = mask is not None and self.layer.uses_masks and "mask" in self.layer.mask_argument_names
        kwargs = {"mask": mask} if takes_mask else {}
        if self.step_rule == "keras2":
            return self.layer.execute(context, w, (flat,), kwargs, None, want_masks=False)[0]
        # Keras 3 calls `call` directly here, so the layer's own activity regularisation isn't added.
        return self.layer.forward(context, w, flat, **kwargs)


class Bidirectional(Holder):
    """Runs a recurrent layer over the timesteps in both directions (keras.layers.Bidirectional).

    layer            the forward layer; a copy is used
    merge_mode       how the two outputs are combined: concat, sum, mul, ave; None returns both
    backward_layer   the backward layer, by default a copy of `layer` with the opposite `go_backwards`
    mask_rule        outputs of masked timesteps: 0 in `keras3`; not zeroed in `keras2`, as in multi-backend Keras

    The backward outputs are reversed to the order of the inputs. States, if returned, start with the forward layer's.
    """

    layer: Layer = option(any_layer)
    merge_mode: str | None = option(optional(one_of("concat", "sum", "mul", "ave")), default="concat")
    backward_layer: Layer | None = option(optional(any_layer), default=None, kw_only=True)
    mask_rule: str = option(one_of("keras3", "keras2"), default="keras3", kw_only=True, saved=False)

    def setup(self) -> None:
        """Creates the copies. Raises ConfigError for incompatible layers."""
        given = self.layer
        for layer in (given, self.backward_layer):
            if layer is not None and "initial_state" not in layer.call_argument_names:
                raise ConfigError(f"Bidirectional: got {layer!r}, expected a recurrent layer")
        self.layer = _copy(given, name="forward_" + given.name.removeprefix("forward_"))
        if self.backward_layer is None:
            self.backward_layer = _copy(
                given,
                name="backward_" + given.name.removeprefix("backward_"),
                go_backwards=not self._flag(given, "go_backwards"),
            )
        self._check_pair(self.layer, self.backward_layer)
        for layer in (self.layer, self.backward_layer) if self.mask_rule == "keras3" else ():
            # Otherwise merging would mix one direction's outputs with the other's stale ones at masked timesteps.
            layer.zero_output_for_mask = self._flag(layer, "return_sequences")  # type: ignore[attr-defined]
        self.hold(forward_layer=self.layer, backward_layer=self.backward_layer)

    @property
    def forward_layer(self) -> Layer:
        """The forward layer."""
        return self.layer

    @staticmethod
    def _flag(layer: Layer, option_name: str) -> bool:
        return bool(getattr(layer, option_name))

    def _check_pair(self, forward: Layer, backward: Layer) -> None:
        if self._flag(forward, "go_backwards") == self._flag(backward, "go_backwards"):
            raise ConfigError("Bidirectional: both layers have the same go_backwards, expected opposite values")
        for name in ("stateful", "return_sequences", "return_state"):
            if self._flag(forward, name) != self._flag(backward, name):
                raise ConfigError(f"Bidirectional: the two layers differ in {name}, expected the same")

    def build(self, *input_shapes: Any) -> None:
        for layer in self.sublayers.values():
            if not layer.built:
                with scopes.building(layer):
                    layer.build(input_shapes[0])
                layer.built = True

    def forward(
        self,
        context: CallContext,
        w: Weights,
        sequences: torch.Tensor,
        initial_state: Any = None,
        mask: Any = None,
        sequences_mask: Any = None,
    ) -> Any:
        """Returns the merged outputs and, if the layers return them, the states."""
        states = flatten(initial_state) if initial_state is not None else []
        half = len(states) // 2
        ways = []
        for layer, bound, start in (
            (self.layer, w["forward_layer"], states[:half]),
            (self.sublayers["backward_layer"], w["backward_layer"], states[half:]),
        ):
            masks = {"mask": mask, "sequences_mask": sequences_mask}
            outputs, _ = layer.execute(
                context, bound, (sequences,), {"initial_state": start or None, **masks}, None, want_masks=False
            )
            ways.append(flatten(outputs))
        dtype = torch_dtype(self.compute_dtype)
        ahead, back = (outputs[0].to(dtype) for outputs in ways)
        if self._flag(self.layer, "return_sequences"):
            back = back.flip(1)
        return [*self._joined(ahead, back), *ways[0][1:], *ways[1][1:]]

    def _joined(self, ahead: torch.Tensor, back: torch.Tensor) -> list[torch.Tensor]:
        match self.merge_mode:
            case "concat":
                return [torch.cat([ahead, back], -1)]
            case "sum":
                return [ahead + back]
            case "ave":
                return [(ahead + back) / 2]
            case "mul":
                return [ahead * back]
            case _:
                return [ahead, back]

    def compute_mask(self, context: CallContext, inputs: Any, mask: Any) -> Any:
        """The timesteps' mask for each sequence returned; states have none."""
        if not self._flag(self.layer, "return_sequences"):
            return None
        known = next(iter(flatten(mask)), None)
        return [known] if self.merge_mode else [known, known]


def _copy(layer: Layer, **changes: Any) -> Layer:
    """Returns a new layer with the same options, except for `changes`."""
    # Classes of cells that aren't registered are taken from the layer itself.
    classes = {type(inner).__name__: type(inner) for inner in layer.walk_layers() if inner.computes_by_call}
    with custom_object_scope(classes):
        made = type(layer).from_config({**layer.get_config(), **changes})
    if hasattr(layer, "mask_rule"):
        # Not in the config, as it is set from the file's version.
        made.mask_rule = layer.mask_rule  # type: ignore[attr-defined]
    return made


LAYERS: dict[str, type[Layer]] = {
    "Bidirectional": Bidirectional,
    "TimeDistributed": TimeDistributed,
}
