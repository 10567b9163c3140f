"""Graphs as steps over numbered slots: nested models are expanded, and each step has its place in Keras's order."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property

from layergraph.errors import GraphError
from layergraph.execution.keras38_masks import is_recorded, removes_masks, without_lost_masks
from layergraph.execution.named_masks import named_mask
from layergraph.execution.step import Step
from layergraph.functional.graph import Graph
from layergraph.functional.invocation import Invocation
from layergraph.functional.nest import flatten
from layergraph.functional.node import Node
from layergraph.functional.tensor import Tensor

#: Maximum number of calls in a plan. Without it, nested models that call each other twice would grow without bound.
MAX_CALLS = 200_000


class Layout:
    """Flattens a graph into steps over numbered slots."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        #: For each step, its place in Keras's order: that of its call among those of its model, after the model's own.
        self._places: list[tuple[int, ...]] = []
        #: Tensors with masks when the model is built, by id.
        self._recorded: set[int] = set()
        #: For each call of a nested model, its place, and the slots of such tensors.
        self._entered: list[tuple[tuple[int, ...], list[int]]] = []
        self.slot_count = 0

    @cached_property
    def removes_masks(self) -> bool:
        """Whether a call takes away masks from later ones."""
        return any(removes_masks(step.call.layer) for step in self.steps)

    def calls(self, *, training: bool) -> tuple[list[Step], list[Step], set[int]]:
        """Returns the steps, without masks that are lost: as they were added, and in the order of Keras.

        The third part is the slots whose masks are lost in the end.
        """
        order = sorted(range(len(self.steps)), key=self._places.__getitem__)
        ordered = [self.steps[index] for index in order]
        if not self.removes_masks:
            return self.steps, ordered, set()
        places = [self._places[index] for index in order]
        set_again: dict[int, list[int]] = {}
        for place, slots in self._entered:
            set_again.setdefault(bisect_left(places, place), []).extend(slots)
        ordered, lost = without_lost_masks(ordered, self._recorded, set_again, training=training)
        added = dict(zip(order, ordered, strict=True))
        return [added[index] for index in range(len(order))], ordered, lost

    def _add(self, step: Step, place: tuple[int, ...]) -> None:
        self.steps.append(step)
        self._places.append(place)

    def new_slot(self) -> int:
        """Adds a slot."""
        self.slot_count += 1
        return self.slot_count - 1

    def open_graph(
        self,
        graph: Graph,
        slots: dict[int, int],
        calls: tuple[Node, ...],
        within: tuple[int, ...],
        training: bool | None,
        scopes: dict[tuple[Node, ...], dict[int, int]],
    ) -> None:
        """Adds the steps of `graph`, whose inputs have slots.

        `calls` are the calls of the models around it, and `within` the places of these calls in Keras's order.
        """
        places = {node: (*within, place) for place, node in enumerate(graph.executed)}
        for node in graph.nodes:
            if node.is_input or all(id(t) in slots for t in node.output_tensors):
                continue
            training_mode = training if node.training is None else node.training
            inner = node.layer.inner_model
            given = [leaf for leaf in flatten(list(node.args)) if isinstance(leaf, Tensor)]
            if inner is not None and not node.kwargs.keys() - {"mask"} and inner.takes_as_they_are(given):
                entries = self._with_named_masks(node, given, slots, places[node])
                self._entered.append((places[node], [slots[id(t)] for t in given if id(t) in self._recorded]))
                inner_slots = {id(t): entry for t, entry in zip(inner.inputs, entries, strict=True)}
                nested = (*calls, node)
                scopes[nested] = inner_slots
                self.open_graph(inner.graph, inner_slots, nested, places[node], training_mode, scopes)
                targets = [inner_slots[id(t)] for t in inner.outputs]
            else:
                targets = [self.new_slot() for _ in node.output_tensors]
                invocation = Invocation(node.layer, node.args, node.kwargs, training_mode)
                sources = tuple(slots[id(t)] for t in invocation.tensors)
                if any(t.mask_shape is not None for t in node.output_tensors) and is_recorded(
                    invocation, self._recorded
                ):
                    self._recorded.update(map(id, node.output_tensors))
                self._add(Step(invocation, sources, tuple(targets), made=tuple(node.output_tensors)), places[node])
                if len(self.steps) > MAX_CALLS:
                    raise GraphError(f"the model makes more than {MAX_CALLS} calls once nested models are expanded")
            slots.update({id(t): slot for t, slot in zip(node.output_tensors, targets, strict=True)})

    def _with_named_masks(
        self, node: Node, given: Sequence[Tensor], slots: dict[int, int], place: tuple[int, ...]
    ) -> list[int]:
        """Slots of a nested model's inputs, with the masks that its call names instead of those of the tensors."""
        entries = []
        for tensor, source in zip(given, Invocation(node.layer, node.args, node.kwargs).previous_masks, strict=True):
            if source is not None and not source[1]:
                entries.append(slots[id(tensor)])
                continue
            mask = None if source is None else source[0]
            invocation = named_mask(tensor, mask)
            entries.append(self.new_slot())
            sources = tuple(slots[id(t)] for t in invocation.tensors)
            shape = None if mask is None else mask.shape
            made = Tensor(tensor.shape, tensor.dtype, tensor.history, mask_shape=shape)
            # Before the calls of the nested model, whose places are longer.
            self._add(Step(invocation, sources, (entries[-1],), made=(made,)), place)
        return entries
