"""Endpoints: objects that a version caches for requests with the same selection."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from layerserve_server.errors import InvalidRequestError, safe_text
from layerserve_server.inference.admission import Admission
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.prediction.contract import Encoder, Selection
from layerserve_server.services.prediction.decoder import Decoder

#: Maximum number of cached endpoints per version. Clients choose the outputs, so there has to be a limit.
MAX_KEPT = 64


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Admission, decoder and encoder for requests with the same selection of a version."""

    admission: Admission
    decoder: Decoder
    #: The outputs to compute, without duplicates.
    computed: tuple[str, ...]
    encoder: Encoder


def endpoint_of(version: LoadedVersion, selection: Selection) -> Endpoint:
    """Returns the version's endpoint for this selection.

    Raises UnknownOutputError if there is no such output, and InvalidRequestError if one is given twice.
    """
    found: Endpoint | None = version.endpoints.get(selection)
    if found is None:
        found = _make_endpoint(version, selection)
        if len(version.endpoints) >= MAX_KEPT:
            version.endpoints.clear()
        version.endpoints[selection] = found
    return found


def _make_endpoint(version: LoadedVersion, selection: Selection) -> Endpoint:
    contract = selection.contract
    outputs = contract.output_names(version, selection)
    if len(set(outputs)) < len(outputs):
        # The reply would be larger than the results by this factor.
        name, count = Counter(outputs).most_common(1)[0]
        raise InvalidRequestError(f"output '{safe_text(name, 80)}': given {count} times, expected once")
    plan = version.runner.plan(outputs)
    names = outputs or tuple(spec.name for spec in version.model.output_specs)
    computed = tuple(dict.fromkeys(names))
    padding = version.runner.padding(computed, plan.input_specs)
    admission = Admission(plan, version.model.input_specs, computed, padding)
    decoder = Decoder(admission, contract.input_names(version, selection))
    return Endpoint(admission, decoder, computed, contract.encoder(version, selection, names))
