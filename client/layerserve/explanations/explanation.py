"""What is known of why a model gives an output, and the call for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from layerserve.calls.flow import Flow, call
from layerserve.errors import InvalidArgument
from layerserve.models.info import model_spec
from layerserve.models.signatures import Signature, Signatures, with_signature
from layerserve.prediction.prediction import as_asked, call_metadata, output_names
from layerserve.v1.explanations_pb2 import ExplainRequest, ExplainResponse
from layerserve.v1.tensor_pb2 import ModelSpec
from layerserve.values.inputs import encode_inputs
from layerserve.values.tables import Table, Tabular, shape_text
from layerserve.values.tensors import Array, decode

#: An element of a row of the output, or of each row.
Target: TypeAlias = "int | tuple[int, ...] | Sequence[int] | Sequence[tuple[int, ...]] | Array"

#: Largest index of an element.
MAX_INDEX = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Explanation(Tabular):
    """How much each element of some tensors adds to an element of the output, by integrated gradients.

    `tensors` are their names. `attributions` has the shape of the tensor; it is a dict by name for several tensors, and
    if `to` was a list. `outputs` are the explained elements, and `baseline_outputs` their values for the baselines,
    (rows,) each. The attributions of a row add up to the difference of the two, but for its `convergence_delta`,
    (rows,).
    """

    model: str
    version: int
    tensors: tuple[str, ...]
    attributions: Array | dict[str, Array]
    outputs: Array
    baseline_outputs: Array
    convergence_delta: Array

    @property
    def by_tensor(self) -> dict[str, Array]:
        """The attributions by name of the tensor."""
        return self.attributions if isinstance(self.attributions, dict) else {self.tensors[0]: self.attributions}

    def table(self) -> Table:
        """Returns a table with a row per tensor."""
        rows = [
            (name, shape_text(array.shape), f"{array.sum():.4g}", f"{np.abs(array).max(initial=0.0):.4g}")
            for name, array in self.by_tensor.items()
        ]
        return Table(f"{self.model} version {self.version}", ("Tensor", "Shape", "Sum", "Largest"), rows)


def explain(
    signatures: Signatures,
    model: str,
    inputs: Any,
    target: Target | None,
    output: str | None,
    to: str | Sequence[str] | None,
    baselines: Any,
    n_steps: int,
    version: int | None,
    label: str | None,
    key: str | None,
) -> Flow[Explanation]:
    """Flow of an explanation."""
    spec, metadata = model_spec(model, version, label), call_metadata(model, key)
    request = ExplainRequest(model=spec, output=output or "", target=_indices(target), to=output_names(to))
    if not isinstance(n_steps, int) or n_steps < 1:
        raise InvalidArgument(f"n_steps: got {n_steps!r:.80}, expected a positive integer")
    request.steps = min(n_steps, MAX_INDEX)

    def ask(signature: Signature) -> Flow[Explanation]:
        reply = yield from call(_filled(request, inputs, baselines, signature), ExplainResponse, metadata)
        return _read(signatures, spec, reply, to)

    return (yield from with_signature(signatures, spec, ask))


def _filled(request: ExplainRequest, inputs: Any, baselines: Any, signature: Signature) -> ExplainRequest:
    filled = ExplainRequest(inputs=encode_inputs(inputs, signature.inputs))
    if baselines is not None:
        filled.baselines.extend(encode_inputs(baselines, signature.inputs))
    filled.MergeFrom(request)
    return filled


def _indices(target: Target | None) -> list[int]:
    """Returns the indices of an element, or of those of all rows one after the other. Raises InvalidArgument."""
    if target is None:
        return []
    try:
        indices = np.atleast_1d(np.asarray(target))
    except ValueError:
        indices = np.empty(1, object)
    if indices.dtype.kind not in "iu" or indices.ndim > 2 or ((indices < 0) | (indices > MAX_INDEX)).any():
        raise InvalidArgument(
            f"target: got {target!r:.80}, expected an index from 0, a tuple with one for each axis, or a list with one "
            "of these for each row"
        )
    flat: list[int] = indices.ravel().tolist()
    return flat


def _read(
    signatures: Signatures, spec: ModelSpec, reply: ExplainResponse, to: str | Sequence[str] | None
) -> Explanation:
    signatures.answered(spec, reply.model.version)
    arrays: Mapping[str, Array] = {tensor.name: decode(tensor, copy=True) for tensor in reply.attributions}
    return Explanation(
        reply.model.name,
        reply.model.version,
        tuple(arrays),
        as_asked(arrays, to),
        decode(reply.outputs, copy=True),
        decode(reply.baseline_outputs, copy=True),
        decode(reply.convergence_delta, copy=True),
    )
