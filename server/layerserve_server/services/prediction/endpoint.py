"""Endpoints: how requests are read and replies written, cached by a version for each `RequestedOutputs`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

from layerserve_server.errors import InvalidRequestError, safe_text
from layerserve_server.inference.admission import Admission
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.prediction.decoder import Decoder
from layerserve_server.services.prediction.predict_protocol import Encoder, RequestedOutputs

T = TypeVar("T")

#: Maximum number of cached endpoints per version. Clients choose the outputs, so there has to be a limit.
MAX_KEPT = 64


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Admission, decoder and encoder for requests for the same outputs of a version."""

    admission: Admission
    decoder: Decoder
    #: The outputs to compute, without duplicates.
    computed: tuple[str, ...]
    encoder: Encoder


def endpoint_of(version: LoadedVersion, requested: RequestedOutputs) -> Endpoint:
    """Returns the version's endpoint for these outputs.

    Raises UnknownOutputError if there is no such output, and InvalidRequestError if one is given twice.
    """
    return kept(version, requested, lambda: _make_endpoint(version, requested))


def kept(version: LoadedVersion, key: Hashable, make: Callable[[], T]) -> T:
    """Returns what a version keeps for requests of a kind, made once."""
    found: T | None = version.endpoints.get(key)
    if found is None:
        found = make()
        if len(version.endpoints) >= MAX_KEPT:
            version.endpoints.clear()
        version.endpoints[key] = found
    return found


def _make_endpoint(version: LoadedVersion, requested: RequestedOutputs) -> Endpoint:
    protocol = requested.protocol
    outputs = protocol.output_names(version, requested)
    if len(set(outputs)) < len(outputs):
        # The reply would be larger than the results by this factor.
        name, count = Counter(outputs).most_common(1)[0]
        raise InvalidRequestError(f"output '{safe_text(name, 80)}': given {count} times, expected once")
    plan = version.runner.plan(outputs)
    names = outputs or tuple(spec.name for spec in version.model.output_specs)
    computed = tuple(dict.fromkeys(names))
    padding = version.runner.padding(computed, plan.input_specs)
    admission = Admission(plan, version.model.input_specs, computed, padding)
    decoder = Decoder(admission, protocol.input_names(version, requested), version.decoders)
    return Endpoint(admission, decoder, computed, protocol.encoder(version, requested, names))
