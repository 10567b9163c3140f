"""The states of a step graph while it is built: a tensor for each before the step, and one after it."""

from __future__ import annotations

from collections.abc import Sequence

from layergraph.errors import NotSteppableError
from layergraph.functional.input import Input
from layergraph.functional.layer import Layer
from layergraph.functional.tensor import Shape, Tensor
from layergraph.stepping.layer_copies import Names
from layergraph.stepping.state import Array, StateSpec


class StateTensors:
    """States in the order in which they were added.

    names     names of the graph's layers
    before    inputs of the graph
    after     the states after the step
    sources   slots in the model of what computes the first states; None for constant ones
    owners    layers with states in the graph -> path and class of the model's layer
    """

    def __init__(self, names: Names) -> None:
        self.names = names
        self.specs: list[StateSpec] = []
        self.before: list[Tensor] = []
        self.after: list[Tensor] = []
        self.sources: list[int | None] = []
        self.owners: dict[Layer, tuple[str, str]] = {}

    def add(
        self,
        name: str,
        layer: str,
        shape: Shape,
        dtype: str,
        *,
        first: Array | None = None,
        computed_by: int | None = None,
    ) -> Tensor:
        """Adds a state of these lengths, without the rows, and returns its tensor before the step.

        Raises NotSteppableError for an unknown length.
        """
        lengths = tuple(size for size in shape if size is not None)
        if len(lengths) < len(shape):
            shown = ("rows", *("any" if size is None else size for size in shape))
            raise NotSteppableError(f"state '{name}' would have shape {shown}, expected known lengths", layer)
        name = self.names.free(name)
        spec = StateSpec(name, lengths, dtype, self.names.free(f"{name}/next"), layer, first, computed_by is not None)
        self.specs.append(spec)
        self.before.append(Input(batch_shape=(None, *lengths), dtype=dtype, name=name))
        self.sources.append(computed_by)
        return self.before[-1]

    def own(self, copy: Layer, path: str, layer: Layer) -> None:
        """Notes which layer of the model a layer of the graph stands for."""
        self.owners[copy] = (path, layer.keras_class_name)

    def finish(self, after: Sequence[Tensor]) -> None:
        """Adds the tensors, after the step, of the states that were added last."""
        self.after += after
