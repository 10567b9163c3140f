"""What a version has ready for requests that ask for the same outputs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from layerserve_server.errors import InvalidRequestError, safe_text
from layerserve_server.inference.admission import Admission
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.prediction.decoder import Decoder
from layerserve_server.services.prediction.encoder import Encoder

#: Endpoints that a version keeps. Callers choose the outputs, so there is a bound.
MAX_KEPT = 64


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Some outputs of a version, and how requests for them are read and answered."""

    admission: Admission
    decoder: Decoder
    #: Each output once, as the model computes them.
    computed: tuple[str, ...]
    encoder: Encoder


def endpoint_of(version: LoadedVersion, outputs: tuple[str, ...]) -> Endpoint:
    """The endpoint of these outputs, or of all, which the version keeps.

    Raises UnknownOutputError, and InvalidRequestError for repeated ones.
    """
    found: Endpoint | None = version.endpoints.get(outputs)
    if found is None:
        found = _make_endpoint(version, outputs)
        if len(version.endpoints) >= MAX_KEPT:
            version.endpoints.clear()
        version.endpoints[outputs] = found
    return found


def _make_endpoint(version: LoadedVersion, outputs: tuple[str, ...]) -> Endpoint:
    if len(set(outputs)) < len(outputs):
        # A reply would be as many times as large as what it is computed from.
        name, count = Counter(outputs).most_common(1)[0]
        raise InvalidRequestError(f"output '{safe_text(name, 80)}': got it {count} times, expected it once")
    plan = version.runner.plan(outputs)
    names = outputs or tuple(spec.name for spec in version.model.output_specs)
    computed = tuple(dict.fromkeys(names))
    padding = version.runner.padding(computed, plan.input_specs)
    admission = Admission(plan, version.model.input_specs, computed, padding)
    return Endpoint(admission, Decoder(admission), computed, Encoder(version.name, version.version, names))
