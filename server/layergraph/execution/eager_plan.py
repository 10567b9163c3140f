"""Plans that torch computes: the calls that some outputs of a model need, in order, with nested models expanded.

A plan is built from the graph alone; weights are bound on the first run.

Nested models are expanded so that pruning, addresses (`outer/inner:0`) and freeing work on single calls. `run_eagerly`
executes fewer, larger calls (see `passes.fusion`). `forward`, which gradients go through, executes the graph as it is.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch

from layergraph.config.training_rules import TrainingRules
from layergraph.errors import DataError, GraphError
from layergraph.execution.arrays import as_tensor, to_numpy
from layergraph.execution.batch_independence import is_batch_independent
from layergraph.execution.frozen_trunk import FrozenSplit, frozen_split
from layergraph.execution.layout import Layout
from layergraph.execution.liveness import marking, masks_needed, needed, with_frees
from layergraph.execution.passes.pool_before_relu import pool_first
from layergraph.execution.program import Program, inference_program
from layergraph.execution.step import Step
from layergraph.functional.addresses import find_tensor
from layergraph.functional.binding import Binder, last_change
from layergraph.functional.call_context import CallContext
from layergraph.functional.functional import Functional
from layergraph.functional.invocation import Mask
from layergraph.functional.lora import Lora
from layergraph.functional.node import Node
from layergraph.functional.strings import Strings
from layergraph.functional.tensor import Tensor, TensorSpec
from layergraph.functional.torch_errors import meaning
from layergraph.functional.weight import Weight

#: Exceptions of torch for lengths that an operation doesn't accept; IndexError if there is nothing to reduce.
_SHAPE_ERRORS = (RuntimeError, IndexError)
_version = attrgetter("_version")


class EagerPlan:
    """How torch computes some tensors of a model. Several threads may run one plan concurrently.

    `input_specs` are the inputs that the outputs depend on, `output_specs` the outputs, in order. Raises GraphError for
    more than `layout.MAX_CALLS` calls, or for an inner tensor that can't be an output.
    """

    def __init__(self, model: Functional, outputs: Sequence[str] | None = None) -> None:
        layout = Layout()
        slots = {id(tensor): layout.new_slot() for tensor in model.inputs}
        scopes: dict[tuple[Node, ...], dict[int, int]] = {(): slots}
        layout.open_graph(model.graph, slots, (), (), None, scopes)
        own = dict(zip(model.output_names, model.outputs, strict=True))
        names = model.output_names if outputs is None else list(outputs)
        found: list[tuple[tuple[Node, ...], Tensor]] = [
            ((), own[name]) if name in own else find_tensor(model, name) for name in names
        ]
        try:
            self._outputs = [scopes[calls][id(tensor)] for calls, tensor in found]
        except KeyError:
            raise GraphError(
                "a tensor inside of a nested model whose inputs are converted can't be an output"
            ) from None
        serving, ordered, lost = layout.calls(training=False)
        self.steps = with_frees(needed(serving, self._outputs), self._outputs)
        # Keras executes all calls of a nested model, even if their outputs are unused: their side effects count.
        marks = marking(serving) if outputs is None and len(self.steps) < len(serving) else []
        #: The steps that `forward` executes, in Keras's order, as calls of a shared layer change statistics and states.
        #: For each mode: in training, other masks may be lost.
        self._by_mode = dict.fromkeys(
            (False, True), with_frees(needed(ordered, [*self._outputs, *marks]), self._outputs)
        )
        #: Slots whose masks are lost.
        self._lost = {False: lost, True: lost}
        if layout.removes_masks:
            _, ordered, self._lost[True] = layout.calls(training=True)
            self._by_mode[True] = with_frees(needed(ordered, [*self._outputs, *marks]), self._outputs)
        self._forwarded = self._by_mode[True]
        used = {slot for step in self.steps for slot in step.sources} | set(self._outputs)
        everything = zip(model.input_specs, [slots[id(tensor)] for tensor in model.inputs], strict=True)
        self._all_inputs = [slots[id(tensor)] for tensor in model.inputs]
        #: Whether every input of the model is used.
        self.needs_all_inputs = used.issuperset(self._all_inputs)
        kept = [(spec, slot) for spec, slot in everything if outputs is None or slot in used]
        self.input_specs: tuple[TensorSpec, ...] = tuple(spec for spec, _ in kept)
        self._inputs = [slot for _, slot in kept]
        self.output_specs: tuple[TensorSpec, ...] = tuple(
            TensorSpec(name, tensor.shape, tensor.dtype) for name, (_, tensor) in zip(names, found, strict=True)
        )
        self._slot_count = layout.slot_count
        self._masks_needed = {
            want: masks_needed(self._forwarded, self._outputs if want else []) for want in (False, True)
        }
        self._mixed = any(s.call.layer.compute_dtype != s.call.layer.dtype for s in self._forwarded)
        #: LoRA weights of the layers, as of the last change of weights that this plan has noticed.
        self._adapted = self._loras()
        self._change = last_change()
        self._adapted_state = -1
        self._batched: bool | None = None
        self._bound: list[Any] | None = None
        self._forward_steps: dict[bool, Sequence[Step]] = {}
        self._programs: dict[bool, Program] = {}
        #: For each input, the axes other than the rows whose length is open.
        self._open_axes = [[i for i, size in enumerate(s.shape) if i and size is None] for s in self.input_specs]
        self._opens = any(self._open_axes)
        #: Whether merged calls of shared layers have run without shape errors so far.
        self._joins = True
        self._values: list[torch.Tensor] | None = None
        self._lock = threading.Lock()

    @property
    def batched(self) -> bool:
        """Whether axis 0 of all inputs and outputs holds independent rows, so that several requests can be joined."""
        if self._batched is None:
            specs = (*self.input_specs, *self.output_specs)
            with self._lock:
                self._batched = all(s.shape and s.shape[0] is None for s in specs) and is_batch_independent(self.steps)
        return self._batched

    def run_eagerly(
        self, arrays: Sequence[np.ndarray[Any, Any]], empty: list[str] | None = None
    ) -> list[np.ndarray[Any, Any]]:
        """Computes the outputs with torch, call by call, for arrays in the order of `input_specs`.

        Shapes of empty intermediate tensors are appended to `empty`. Raises DataError if the arrays don't fit.
        """
        values = [as_tensor(array, spec) for array, spec in zip(arrays, self.input_specs, strict=True)]
        joined = self._may_join(arrays)
        try:
            try:
                return self._run_program(values, empty, joined=joined)
            except _SHAPE_ERRORS:
                if not joined or not self._opens:
                    raise
                # Lengths may differ further on in the model, as after cropping. If so, they differ in every run.
                outputs = self._run_program(values, empty, joined=False)
                self._joins = False
                return outputs
        except _SHAPE_ERRORS as wrong:
            fixed = not self._opens and len({array.shape[:1] for array in arrays}) == 1
            if "alloc" in str(wrong) or (fixed and all(array.size for array in arrays)):
                raise
            # Lengths that the model leaves open may fit each input, but not the other inputs or a layer's window.
            shapes = {spec.name: array.shape for spec, array in zip(self.input_specs, arrays, strict=True)}
            raise DataError(f"inputs of shapes {shapes} don't fit the model: {meaning(wrong)}") from wrong

    def _may_join(self, arrays: Sequence[np.ndarray[Any, Any]]) -> bool:
        """Whether calls of a shared layer may be merged: not if they get sequences of different lengths."""
        if not self._joins or not self.batched or len({len(array) for array in arrays}) != 1:
            return False
        opened = zip(arrays, self._open_axes, strict=True)
        return len({tuple(array.shape[axis] for axis in axes) for array, axes in opened if axes}) <= 1

    def _run_program(
        self, values: Sequence[torch.Tensor], empty: list[str] | None, *, joined: bool
    ) -> list[np.ndarray[Any, Any]]:
        program = self.program(joined=joined)
        if empty is not None:
            program = program.recording_empty(empty)
        with torch.inference_mode():
            return [to_numpy(value) for value in program(values)]

    def _weights_state(self) -> int:
        """Sum of the weights' versions, which changes with any weight."""
        if self._values is None:
            layers = dict.fromkeys(layer for step in self.steps for layer in step.call.layer.walk_layers())
            self._values = [weight.value for layer in layers for weight in layer.own_weights]
        return sum(map(_version, self._values))

    def forward(
        self, context: CallContext, tensors: Sequence[torch.Tensor | Strings]
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """Returns outputs and masks for tensors in the order of `input_specs`. Differentiable."""
        slots: list[Any] = [None] * self._slot_count
        for slot, value in zip(self._inputs, tensors, strict=True):
            slots[slot] = value
        return self._execute(context, self._weights(), slots, [None] * self._slot_count, output_masks=True)

    def removed_masks(self, *, training: bool) -> Collection[int]:
        """Positions of the model's inputs that have no masks after a call."""
        return [index for index, slot in enumerate(self._all_inputs) if slot in self._lost[training]]

    def forward_nested(
        self,
        context: CallContext,
        weights: list[Any],
        tensors: Sequence[torch.Tensor],
        masks: Sequence[Mask],
        *,
        want_masks: bool,
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """Runs the plan as part of another run: with given weights, and with masks for all of the model's inputs."""
        slots: list[Any] = [None] * self._slot_count
        slot_masks: list[Mask] = [None] * self._slot_count
        for slot, value, mask in zip(self._all_inputs, tensors, masks, strict=True):
            slots[slot], slot_masks[slot] = value, mask
        return self._execute(context, weights, slots, slot_masks, output_masks=want_masks)

    def frozen_split(
        self, trained: Collection[Weight], tensors: Sequence[torch.Tensor | Strings], rules: TrainingRules
    ) -> FrozenSplit:
        """Splits the plan into its frozen trunk, if only the weights in `trained` change, and the rest.

        `tensors` are a few rows of each input, on which every call of the trunk is tried once.
        """
        self._notice_changes()
        return frozen_split(
            self._forwarded,
            self._inputs,
            self._outputs,
            self._slot_count,
            trained,
            tensors,
            rules,
            mixed=self._mixed or bool(self._adapted),
        )

    @property
    def slots(self) -> tuple[Sequence[int], Sequence[int]]:
        """Slots of the inputs and of the outputs."""
        return self._inputs, self._outputs

    @property
    def slot_count(self) -> int:
        """Number of slots."""
        return self._slot_count

    def bind(self, binder: Binder) -> list[Any]:
        """The bound weights of each step of `forward`."""
        return [binder(step.call.layer) for step in self._forwarded]

    def program(self, *, joined: bool = False) -> Program:
        """The optimised steps for inference, created on first use."""
        self._notice_changes()
        program = self._programs.get(joined)
        if self._adapted and self._adapted_state != (state := self._weights_state()):
            # Programs hold merged kernels, which are stale once LoRA weights change.
            self._programs, self._adapted_state, program = {}, state, None
        if program is None:
            with self._lock:
                made = self.inference_program(packed=True, joined=joined)
                program = self._programs.setdefault(joined, made)
        return program

    def inference_program(self, *, packed: bool, joined: bool) -> Program:
        """A program of this plan for inference (see `program.inference_program`)."""
        return inference_program(
            self.steps, self._inputs, self._outputs, self._slot_count, packed=packed, joined=joined
        )

    def _notice_changes(self) -> None:
        """Drops what is bound if a layer of this plan has got or lost LoRA weights."""
        if self._change != (change := last_change()):
            self._change = change
            adapted = self._loras()
            if adapted != self._adapted:
                self._adapted = adapted
                self._bound, self._values, self._programs = None, None, {}

    def _loras(self) -> list[Lora]:
        """The LoRA weights of all layers."""
        layers = (layer for step in self._forwarded for layer in step.call.layer.walk_layers())
        return [layer.lora for layer in layers if layer.lora is not None]

    def _weights(self) -> list[Any]:
        self._notice_changes()
        if self._mixed or self._adapted:
            # In mixed precision, the cast of a weight is part of its gradient, and stale once the weight changes; so is
            # what a layer with LoRA makes of its weights.
            return self.bind(Binder(lambda weight: weight.value))
        if self._bound is None:
            with self._lock, torch.inference_mode(False), torch.no_grad():
                self._bound = self._bound or self.bind(Binder(lambda weight: weight.value))
        return self._bound

    def _reordered(self, *, training: bool) -> Sequence[Step]:
        """The steps in a faster order with the same outputs and gradients, created on first use."""
        if training not in self._forward_steps:
            self._forward_steps[training] = pool_first(self._by_mode[training], self._outputs)
        return self._forward_steps[training]

    def _execute(
        self, context: CallContext, weights: list[Any], values: list[Any], masks: list[Mask], *, output_masks: bool
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        needs_masks = self._masks_needed[output_masks]
        steps, lost = self._reordered(training=context.training), self._lost[context.training]
        Program(steps, needs_masks, weights, self._inputs, self._outputs, self._slot_count).execute(
            context, values, masks
        )
        return [values[s] for s in self._outputs], [None if s in lost else masks[s] for s in self._outputs]
