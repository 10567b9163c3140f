"""Predictions: encoding of requests, decoding of replies, and a cache of models' signatures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from layerserve.calls.flow import Flow, Renew, call
from layerserve.calls.routing import model_metadata
from layerserve.calls.tokens import Metadata, Tail
from layerserve.errors import InvalidArgument
from layerserve.models.info import get_model, model_spec
from layerserve.models.signatures import Signature, Signatures, with_signature
from layerserve.prediction.row_parts import Rows, check_part, dependent_rows, part_size
from layerserve.v1.prediction_pb2 import PredictRequest, PredictResponse
from layerserve.v1.tensor_pb2 import ModelSpec, Tensor
from layerserve.values.tables import Table, Tabular, shape_text
from layerserve.values.tensors import Array, decode

#: Maximum size of a message in bytes, protobuf's own limit.
MAX_MESSAGE_BYTES = 2**31 - 1
#: Metadata by which a client asks for the times of a request.
ASK_TIMES = ("layerserve-timing", "1")
#: A time in the metadata "server-timing", in milliseconds.
_TIME = re.compile(r"([a-z]+);dur=([0-9.]+)")
#: Maximum length of an array's values in a table, in characters: a single string may be long.
MAX_VALUES_TEXT = 1000


class Prediction(Mapping[str, Array], Tabular):
    """Mapping of output arrays by name, in the requested order, with the model and version that computed them.

    `timing` has the milliseconds that the request took in the server, if they were asked for: "queue", "compute" and
    "total". Of several requests it has the sums.
    """

    def __init__(
        self, model: str, version: int, outputs: Mapping[str, Array], timing: Mapping[str, float] | None = None
    ) -> None:
        self.model = model
        self.version = version
        self.timing = dict(timing or {})
        self._outputs = dict(outputs)

    def __getitem__(self, name: str) -> Array:
        return self._outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def __repr__(self) -> str:
        arrays = ", ".join(f"{name}: {array.dtype}{list(array.shape)}" for name, array in self.items())
        return f"Prediction({self.model!r} version {self.version}: {arrays})"

    def table(self) -> Table:
        """Returns a table with a row per output; of large arrays only the first and last values."""
        rows = [(name, str(array.dtype), shape_text(array.shape), _values_text(array)) for name, array in self.items()]
        return Table(f"{self.model} version {self.version}", ("Output", "Dtype", "Shape", "Values"), rows)


def _values_text(array: Array) -> str:
    text = np.array2string(array, precision=4, suppress_small=True, threshold=40, edgeitems=2)
    return text if len(text) <= MAX_VALUES_TEXT else f"{text[:MAX_VALUES_TEXT]}..."


def predict(
    signatures: Signatures,
    model: str,
    inputs: Any,
    outputs: str | Sequence[str] | None,
    version: int | None,
    label: str | None,
    key: str | None = None,
    batch_size: int | None = None,
    timing: bool = False,
) -> Flow[Prediction]:
    """Flow of a prediction."""
    spec = model_spec(model, version, label)
    names, metadata = output_names(outputs), call_metadata(model, key)
    if timing:
        metadata = (*metadata, ASK_TIMES)

    def ask(signature: Signature) -> Flow[Prediction]:
        return _predict(signatures, spec, inputs, names, signature, metadata, batch_size)

    return (yield from with_signature(signatures, spec, ask))


def _predict(
    signatures: Signatures,
    spec: ModelSpec,
    inputs: Any,
    names: Sequence[str],
    signature: Signature,
    metadata: Metadata,
    batch_size: int | None,
) -> Flow[Prediction]:
    rows = Rows.of(inputs, signature.inputs)
    size = part_size(rows, batch_size)
    if not size or (batch_size is None and not {one.name for one in signature.outputs}.issuperset(names)):
        return (yield from _request(signatures, spec, rows.whole(), names, metadata))
    independent, version = signature.independent, signature.version
    parts: list[Prediction] = []
    for count, tensors in rows.parts(size):
        if independent is None:
            independent = (yield from get_model(model_spec(spec.name, version))).independent_rows
        if not independent:
            if batch_size is None and not parts:
                return (yield from _request(signatures, spec, rows.whole(), names, metadata))
            raise dependent_rows(spec.name, rows.count)
        yield Renew()
        part = yield from _request(signatures, spec, tensors, names, metadata)
        parts.append(part)
        check_part(part, count, parts[0])
        # All parts are of one version, also if another is published meanwhile.
        spec = model_spec(part.model, part.version)
        if part.version != version:
            independent, version = None, part.version
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    sums = {name: sum(part.timing.get(name, 0.0) for part in parts) for name in parts[0].timing}
    return Prediction(parts[0].model, parts[0].version, joined, sums)


def _request(
    signatures: Signatures, spec: ModelSpec, tensors: Sequence[Tensor], names: Sequence[str], metadata: Metadata
) -> Flow[Prediction]:
    request = PredictRequest(model=spec, inputs=tensors, outputs=names)
    size = request.ByteSize()
    if size > MAX_MESSAGE_BYTES:
        raise InvalidArgument(f"request: got {size} bytes, expected at most {MAX_MESSAGE_BYTES}; pass a batch_size")
    tail: Tail | None = {} if ASK_TIMES in metadata else None
    reply = yield from call(request, PredictResponse, metadata, tail)
    signatures.answered(spec, reply.model.version)
    return read_prediction(reply, timing=times_in(tail) if tail else None)


def call_metadata(model: str, key: str | None) -> Metadata:
    """Returns metadata: the model, and the key by which a canary recognizes a caller. Raises InvalidArgument."""
    if key is None:
        return model_metadata(model)
    # What gRPC sends as metadata, which also loses blanks at the ends.
    if not isinstance(key, str) or not key.isascii() or not key.isprintable() or key != key.strip() or not key:
        raise InvalidArgument(
            f"key: got {key!r:.80}, expected a text of printable ASCII characters, such as a user's id"
        )
    return (("layerserve-key", key), *model_metadata(model))


def times_in(tail: Tail) -> dict[str, float]:
    """Returns the times of a request by name, in milliseconds; none from a server that reports none."""
    return {name: float(text) for name, text in _TIME.findall(str(tail.get("server-timing", "")))}


def read_prediction(
    reply: PredictResponse, *, copy: bool = True, timing: Mapping[str, float] | None = None
) -> Prediction:
    # Copied by default, so that the arrays are writable like those of Keras's predict.
    arrays = {tensor.name: decode(tensor, copy=copy) for tensor in reply.outputs}
    return Prediction(reply.model.name, reply.model.version, arrays, timing)


def as_asked(prediction: Mapping[str, Array], outputs: str | Sequence[str] | None) -> Array | dict[str, Array]:
    """Returns an array if `outputs` is a name, a dict if it is a list, and for None an array if there is one output.

    A list of one name also gives a dict: the result's type depends on the type of `outputs`, not on its length.
    """
    if isinstance(outputs, str) or (outputs is None and len(prediction) == 1):
        return next(iter(prediction.values()))
    return dict(prediction)


def output_names(outputs: str | Sequence[str] | None) -> list[str]:
    """Returns the requested names; empty for all outputs. Raises InvalidArgument for an empty list or duplicates."""
    if outputs is None:
        return []
    names = [outputs] if isinstance(outputs, str) else list(outputs)
    if not names:
        raise InvalidArgument("outputs: got an empty list, expected names, or None for all outputs of the model")
    if len(set(names)) != len(names):
        raise InvalidArgument(f"outputs: got {names}, expected each name once")
    return names
