"""The signatures of a version: which names of inputs and outputs a request may use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from layerserve_server.errors import (
    InvalidRequestError,
    MissingInputError,
    UnknownInputError,
    UnknownOutputError,
    UnknownSignatureError,
    safe_text,
)
from layerserve_server.inference.runner import TensorSpec
from layerserve_server.repository.signatures import Signature
from layerserve_server.repository.version import LoadedVersion

DEFAULT_KEY = "serving_default"
#: Keys of Keras 3's exports for the same function; a model of Keras 2 has the first only.
EQUAL_KEYS = (DEFAULT_KEY, "serve")
#: Name of an input that was created without one, in an export by Keras 3.
UNNAMED = re.compile(r"keras_tensor(?:_([0-9]{1,9}))?")


class Names(NamedTuple):
    """What a request names: the signature's key, and the inputs, sorted."""

    key: str
    inputs: tuple[str, ...]


def signature(version: LoadedVersion, key: str) -> Signature:
    """Returns the signature of a version. Raises UnknownSignatureError."""
    known = version.signatures
    for candidate in (key, *(EQUAL_KEYS if key in EQUAL_KEYS else ())):
        if candidate in known:
            return known[candidate]
    raise UnknownSignatureError(
        f'Serving signature key "{safe_text(key, 80)}" not found. Expected one of {_set(sorted(known))}.'
    )


def specs_of(version: LoadedVersion, names: Signature) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    """Returns the specs of a signature's inputs and outputs, by its names."""
    inputs = {spec.name: spec for spec in version.input_specs}
    outputs = {spec.name: spec for spec in version.model.output_specs}
    hidden = tuple(own for own in names.outputs.values() if own not in outputs)
    if hidden:
        outputs |= zip(hidden, version.runner.plan(hidden).output_specs, strict=True)
    return (
        {name: inputs[own] for name, own in names.inputs.items()},
        {name: outputs[own] for name, own in names.outputs.items()},
    )


def own_outputs(version: LoadedVersion, key: str, given: Sequence[str]) -> tuple[str, ...]:
    """Returns the model's own names of outputs, all if none are given, by the signature's names or the model's.

    Raises UnknownSignatureError, UnknownOutputError, and InvalidRequestError if a name is given twice.
    """
    own = signature(version, key).outputs
    seen: set[str] = set()
    for name in given:
        if name in seen:
            raise InvalidRequestError(f"duplicate output tensor alias: {safe_text(name, 80)}")
        seen.add(name)
        if name not in own:
            try:
                version.runner.plan((name,))
            except UnknownOutputError:
                raise UnknownOutputError(
                    f"output tensor alias not found in signature: {safe_text(name, 80)} "
                    f"Outputs expected to be in the set {_set(sorted(own))}."
                ) from None
    found = tuple(own.get(name, name) for name in given or own)
    # The model's plan for all outputs is there already.
    return () if found == tuple(spec.name for spec in version.model.output_specs) else found


def own_inputs(version: LoadedVersion, names: Names, outputs: Sequence[str]) -> Mapping[str, str]:
    """Returns the model's own name for each input of a request, which has the signature's names or the model's.

    `outputs` are the model's own names of the requested outputs. Raises UnknownSignatureError, UnknownInputError, and
    MissingInputError if the outputs need another input.
    """
    expected = signature(version, names.key)
    specs = [spec.name for spec in version.model.input_specs]
    known = {**{name: name for name in specs}, **expected.inputs}
    unnamed = sorted((name for name in names.inputs if name not in known and UNNAMED.fullmatch(name)), key=_number_of)
    if len(unnamed) == len(expected.unnamed):
        known.update(zip(unnamed, expected.unnamed, strict=True))
    extra = [name for name in names.inputs if name not in known]
    given = {known[name] for name in names.inputs if name in known}
    needed = {spec.name for spec in version.runner.plan(tuple(outputs)).input_specs}
    missing = [name for name, own in expected.inputs.items() if own in needed and own not in given]
    if extra or missing:
        error = UnknownInputError if extra else MissingInputError
        raise error(_difference(names.inputs, sorted(expected.inputs), extra, missing))
    return {name: known[name] for name in names.inputs}


def _difference(got: Sequence[str], expected: Sequence[str], extra: Sequence[str], missing: Sequence[str]) -> str:
    """Returns TensorFlow Serving's text for a request with other inputs than the signature's."""
    if len(got) == len(expected):
        what = f"input tensor alias not found in signature: {safe_text((extra or missing)[0], 80)}."
    else:
        sizes = f"{len(got)}!={len(expected)}"
        what = f"input size does not match signature: {sizes} len({_set(got)}) != len({_set(expected)})."
    return (
        f"{what} Inputs expected to be in the set {_set(expected)}. "
        f"Sent extra: {_set(extra)}. Missing but required: {_set(missing)}."
    )


def _number_of(name: str) -> int:
    match = UNNAMED.fullmatch(name)
    return int(match[1] or 0) if match else 0


def _set(names: Iterable[str]) -> str:
    return "{" + safe_text(",".join(names), 400) + "}"
