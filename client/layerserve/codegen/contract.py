"""The check of what `layerserve codegen` writes: a model with named inputs and outputs, against the server's.

The inputs and outputs of the served model are compared before the first prediction; later predictions cost no further
call. The arrays of another version are compared when the first of them arrives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from layerserve.calls.flow import Flow
from layerserve.errors import InvalidArgument, ModelMismatch
from layerserve.models.info import model_spec
from layerserve.models.signatures import Signatures, fetch_signature
from layerserve.prediction.prediction import Prediction, predict
from layerserve.values.tables import shape_text
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import NUMPY_DTYPES, Array


@dataclass(frozen=True)
class Contract:
    """The model for which a class was written, with its inputs and outputs."""

    model: str
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]

    def check(self, version: int, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        """Raises ModelMismatch if a version has other inputs, or lacks an output. Further outputs are no difference."""
        differences = _differences("input", self.inputs, inputs) + _differences("output", self.outputs, outputs)
        known = {spec.name for spec in self.inputs}
        differences += [
            f"input {spec.name!r}: got {_text(spec)}, expected none" for spec in inputs if spec.name not in known
        ]
        if differences:
            raise self._changed(version, differences)

    def check_arrays(self, version: int, arrays: Mapping[str, Array]) -> None:
        """Raises ModelMismatch if the outputs of a prediction aren't those of the class."""
        found = [TensorSpec(name, array.shape, str(array.dtype)) for name, array in arrays.items()]
        given = {spec.name: spec for spec in found}
        if wrong := [spec for spec in self.outputs if not _fits(spec, arrays.get(spec.name))]:
            raise self._changed(version, [f"output {_difference(spec, given.get(spec.name))}" for spec in wrong])

    def _changed(self, version: int, differences: Sequence[str]) -> ModelMismatch:
        return ModelMismatch(
            f"model {self.model!r} version {version}: {'; '.join(differences)}; write the class again with: "
            f"layerserve codegen {self.model}"
        )


def _differences(kind: str, expected: Sequence[TensorSpec], got: Sequence[TensorSpec]) -> list[str]:
    given = {spec.name: spec for spec in got}
    return [f"{kind} {_difference(spec, given.get(spec.name))}" for spec in expected if given.get(spec.name) != spec]


def _difference(expected: TensorSpec, got: TensorSpec | None) -> str:
    return f"{expected.name!r}: got {_text(got) if got else 'none'}, expected {_text(expected)}"


def _text(spec: TensorSpec) -> str:
    return " or ".join(filter(None, (f"{shape_text(spec.shape)} {spec.dtype}", spec.encoding)))


def _fits(spec: TensorSpec, array: Array | None) -> bool:
    return (
        array is not None
        and array.dtype == NUMPY_DTYPES.get(spec.dtype)
        and array.ndim == len(spec.shape)
        and all(length in (None, given) for length, given in zip(spec.shape, array.shape, strict=True))
    )


class CheckedModel:
    """A reference to a served model, whose predictions are checked."""

    def __init__(self, contract: Contract, version: int | None, label: str | None) -> None:
        self._contract = contract
        self._version = version
        self._label = label
        self._spec = model_spec(contract.model, version, label)
        self._checked: set[int] = set()

    def check(self, signatures: Signatures) -> Flow[None]:
        """Flow that compares the served model. Raises ModelMismatch."""
        signature = yield from fetch_signature(signatures, self._spec)
        self._contract.check(signature.version, signature.inputs, signature.outputs)
        self._checked.add(signature.version)

    def predict(self, signatures: Signatures, inputs: Mapping[str, Any]) -> Flow[Prediction]:
        """Flow of a prediction. Raises ModelMismatch if the model isn't that of the class any more."""
        if not self._checked:
            yield from self.check(signatures)
        try:
            flow = predict(signatures, self._contract.model, inputs, None, self._version, self._label)
            prediction = yield from flow
        except InvalidArgument:
            # Perhaps since there is another version now: then this raises ModelMismatch.
            yield from self.check(signatures)
            raise
        if prediction.version not in self._checked:
            self._contract.check_arrays(prediction.version, prediction)
            self._checked.add(prediction.version)
        return prediction


def no_client(server: object, kind: str) -> NoReturn:
    """Raises InvalidArgument for what is neither an address nor a client of this kind."""
    raise InvalidArgument(f"server: got {type(server).__name__}, expected an address or a {kind}")
