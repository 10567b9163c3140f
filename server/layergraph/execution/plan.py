"""Plans: what computes a model's outputs, with the engines that tuning has chosen or with torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layergraph.errors import DataError
from layergraph.execution.arrays import as_tensor, check_fit
from layergraph.execution.eager_plan import EagerPlan
from layergraph.execution.finite import is_finite
from layergraph.execution.tuning.agreement import LOOSE_TOLERANCE, difference, same_kind
from layergraph.execution.tuning.engine_folder import open_engines
from layergraph.execution.tuning.result import Choice, Lengths, Tuned, Tuning
from layergraph.execution.tuning.tuner import tune
from layergraph.functional.functional import Functional

#: Maximum number of length combinations per engine whose agreement with eager torch is remembered.
MAX_LENGTHS = 20_000
_version = attrgetter("_version")


class Plan(EagerPlan):
    """How to compute some tensors of a model. Several threads may run one plan concurrently.

    Torch computes until `tune` or `open_engines` is called. After that it computes what the chosen engine can't: other
    lengths than those compared, values that aren't finite, and everything once a weight has changed.
    """

    def __init__(self, model: Functional, outputs: Sequence[str] | None = None) -> None:
        super().__init__(model, outputs)
        self._tuning: Tuning | None = None
        self._tuned_state = 0
        #: For each input: name, shape without the row axis, and whether the number of rows is open.
        self._plain_inputs = [(s.name, s.shape[1:], s.shape[:1] == (None,)) for s in self.input_specs]
        self._output_names = [spec.name for spec in self.output_specs]
        #: NumPy dtypes of the inputs, which compare faster than names; None for dtypes that NumPy lacks.
        self._dtypes = [np.dtype(s.dtype) if s.dtype in np.sctypeDict else None for s in self.input_specs]
        #: Inputs with an open number of rows, which must be the same for all of them if an engine computes.
        self._row_inputs = [at for at, spec in enumerate(self.input_specs) if spec.shape[:1] == (None,)]

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Computes the outputs for arrays by input name. Raises DataError if an array is missing or doesn't fit."""
        arrays: list[np.ndarray[Any, Any]] = []
        for name, lengths, any_rows in self._plain_inputs:
            array = inputs.get(name)
            if array is None:
                raise DataError(f"input '{name}' is missing; got {sorted(inputs)}")
            # The common case is checked first: a small model takes ten microseconds in total.
            shape = array.shape
            if not any_rows or not shape or shape[1:] != lengths:
                check_fit(f"input '{name}'", shape, self.input_specs[len(arrays)].shape)
            arrays.append(array)
        # Applies `torch.set_num_threads` to this thread: before, MKL would compute on all cores.
        torch.get_num_threads()
        outputs = self._run_tuned(arrays) if self._tuning is not None else None
        if outputs is None:
            outputs = self.run_eagerly(arrays)
        if len(outputs) == 1:
            return {self._output_names[0]: outputs[0]}
        return dict(zip(self._output_names, outputs, strict=True))

    def _run_tuned(self, arrays: list[np.ndarray[Any, Any]]) -> Sequence[np.ndarray[Any, Any]] | None:
        """The outputs of the fastest engine for this number of rows; None if eager torch must compute them."""
        assert self._tuning is not None
        # Not `self.batched`, whose value `use` has set: a small model takes ten microseconds in total.
        rows = len(arrays[0]) if self._batched else 1
        found = self._tuning.found
        tuned = found[rows] if rows in found else self._tuning.for_rows(rows)
        if tuned is None or not rows or self._tuned_state != sum(map(_version, self._values or ())):
            return None
        if len(arrays) > 1 and len({len(arrays[at]) for at in self._row_inputs}) > 1:
            return None
        for at, array in enumerate(arrays):
            if array.dtype != self._dtypes[at] or not array.flags.c_contiguous:
                array = arrays[at] = as_tensor(array, self.input_specs[at]).numpy()
            # In some engines' kernels the maximum of values with NaN depends on their order, and some kernels crash on
            # empty tensors (ONNX Runtime's GRU).
            if not array.size or (tuned.finite and not is_finite(array)):
                return None
        lengths = self._lengths(arrays) if self._opens else ()
        agrees = tuned.lengths.get(lengths) if lengths else True
        if agrees is None:
            return self._run_new_lengths(tuned, lengths, arrays)
        return self._by_engine(tuned, arrays) if agrees else None

    def _by_engine(self, tuned: Tuned, arrays: Sequence[np.ndarray[Any, Any]]) -> Sequence[np.ndarray[Any, Any]] | None:
        """An engine's outputs; None if it fails, or if a runtime assertion doesn't hold."""
        try:
            outputs = tuned.run(arrays)
        except Exception:
            # Eager torch reports what is wrong with the data, or computes what the engine can't.
            return None
        count = len(self._output_names)
        if len(outputs) == count:
            return outputs
        return outputs[:count] if all(outputs[count:]) else None

    def _lengths(self, arrays: Sequence[np.ndarray[Any, Any]]) -> Lengths:
        """Lengths of the open axes of all inputs."""
        opened = zip(arrays, self._open_axes, strict=True)
        return tuple(tuple(array.shape[axis] for axis in axes) for array, axes in opened)

    def _run_new_lengths(
        self, tuned: Tuned, lengths: Lengths, arrays: Sequence[np.ndarray[Any, Any]]
    ) -> Sequence[np.ndarray[Any, Any]]:
        """The outputs of eager torch for lengths that an engine gets for the first time, compared to the engine's.

        A layer may compute in another way for other lengths (where to pad an odd one), but the graph has recorded one.
        Eager torch runs first, since an engine may crash on data that torch refuses, and on empty intermediate tensors.
        """
        empty: list[str] = []
        expected = self.run_eagerly(arrays, empty)
        outputs = None if empty else self._by_engine(tuned, arrays)
        if outputs is None:
            agrees = False
        elif tuned.exact:
            agrees = difference(outputs, expected) <= LOOSE_TOLERANCE
        else:
            agrees = same_kind(outputs, expected)
        if (empty or outputs is not None) and len(tuned.lengths) < MAX_LENGTHS:
            tuned.lengths[lengths] = agrees
        return expected

    def tune(self, **options: Any) -> Tuning:
        """Times engines on this plan and uses the fastest from now on (see `tuner.tune` for the options).

        Engines hold copies of the weights. When a weight changes, torch computes until this is called again.
        """
        return self.use(tune(self, **options))

    def open_engines(self, folder: Path, threads: int, *, shared: bool, compare: bool = False) -> Tuning:
        """Uses the engines that `tune` has written to `folder` (see `engine_folder.open_engines`).

        With `compare`, eager torch's outputs are compared with those that were written.
        """
        dtypes = [spec.dtype for spec in self.input_specs]
        reference = self.run_eagerly if compare else None
        return self.use(open_engines(folder, dtypes, threads, shared=shared, reference=reference))

    def use(self, tuning: Tuning) -> Tuning:
        """Uses the engines of `tuning` until a weight changes."""
        self._batched = self.batched
        self._tuning = tuning
        self._tuned_state = self._weights_state()
        if tuning.choices and all(choice.tuned for choice in tuning.choices):
            # Packed kernels are copies of the weights, which torch will hardly need now.
            self._programs = {}
        return tuning

    @property
    def engines(self) -> Sequence[Choice]:
        """The choices of `tune`, by number of rows; empty before it is called."""
        return self._tuning.choices if self._tuning else ()
