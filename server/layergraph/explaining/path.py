"""The straight line from baselines to inputs, and the integrals of gradients along it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from layergraph.errors import ExplanationError
from layergraph.explaining.varied_plan import Held, VariedPlan

#: Rows of a pass without gradients.
_FORWARD_ROWS = 32


class Path:
    """An element of each row of an output, along the line from `starts` to `ends` of the varied tensors.

    elements  the position of the element in each row, (rows,)
    n_steps   points of Gauss-Legendre on the line
    """

    def __init__(
        self,
        plan: VariedPlan,
        starts: Sequence[torch.Tensor],
        ends: Sequence[torch.Tensor],
        held: Held,
        elements: torch.Tensor,
        n_steps: int,
    ) -> None:
        self._plan = plan
        self._starts = starts
        self._ends = ends
        self._held = held
        self._elements = elements.to(ends[0].device)
        self._rows = len(ends[0])
        self._n_steps = n_steps

    def values(self, place: float) -> torch.Tensor:
        """Returns the elements at a place from 0, the baselines, to 1, the inputs: (rows,)."""
        with torch.no_grad():
            rows = [self._at(rows, [place])[0] for rows in self._slices(_FORWARD_ROWS)]
        return torch.cat(rows)

    def integrals(self, kept_bytes: int, weights: set[int]) -> list[torch.Tensor]:
        """Returns the attributions to each varied tensor, in its shape, as float32 at least.

        kept_bytes  memory for what a pass keeps for its gradients
        weights     addresses of the weights, which aren't counted
        """
        points, shares = np.polynomial.legendre.leggauss(self._n_steps)
        places, shares = (0.5 * (1 + points)).tolist(), 0.5 * shares
        sums = [torch.zeros_like(end, dtype=torch.promote_types(end.dtype, torch.float32)) for end in self._ends]
        size = max(1, kept_bytes // self._row_bytes(weights)) if self._plan.by_row else self._rows
        together = max(1, size // self._rows) if self._plan.by_row else 1
        for rows in self._slices(size):
            for at in range(0, self._n_steps, together):
                some = slice(at, at + together)
                for total, gradient in zip(sums, self._gradients(rows, places[some]), strict=True):
                    by_step = gradient.reshape(len(places[some]), -1).to(total.dtype)
                    weighted = torch.from_numpy(shares[some]).to(by_step) @ by_step
                    total[rows] += weighted.reshape(total[rows].shape)
        pairs = zip(sums, self._ends, self._starts, strict=True)
        return [total * (end - start).to(total.dtype) for total, end, start in pairs]

    def _gradients(self, rows: slice, places: Sequence[float]) -> Sequence[torch.Tensor]:
        """Returns the gradients at some places for some rows: those of all rows for one place after the other."""
        with torch.enable_grad():
            values, varied = self._at(rows, places)
            found: Any = (None,) * len(varied)
            if values.requires_grad:
                found = torch.autograd.grad(values.sum(), varied, allow_unused=True)
        for gradient, spec in zip(found, self._plan.varied_specs, strict=True):
            if gradient is None:
                raise ExplanationError(
                    f"tensor '{spec.name}': output '{self._plan.output_spec.name}' has no gradient by it"
                )
        return [gradient.detach() for gradient in found]

    def _at(self, rows: slice, places: Sequence[float]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        varied = []
        for start, end in zip(self._starts, self._ends, strict=True):
            low, high = start[rows], end[rows]
            scaled = torch.cat([low + float(place) * (high - low) for place in places])
            varied.append(scaled.requires_grad_(torch.is_grad_enabled()))
        output = self._plan.output(varied, self._plan.rows(self._held, rows, len(places)))
        elements = self._elements[rows].repeat(len(places))
        return output.reshape(len(output), -1).gather(1, elements[:, None])[:, 0], varied

    def _slices(self, size: int) -> Iterator[slice]:
        size = size if self._plan.by_row else self._rows
        return (slice(at, min(at + size, self._rows)) for at in range(0, self._rows, size))

    def _row_bytes(self, weights: set[int]) -> int:
        """Returns how much memory the gradients of a row need, in bytes."""
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self._at(slice(0, 1), [0.5])
        own = sum(size for address, size in kept.items() if address not in weights)
        return max(1, own, *(math.prod(end.shape[1:]) * end.element_size() for end in self._ends))
