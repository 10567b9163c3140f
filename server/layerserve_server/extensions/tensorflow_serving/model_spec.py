"""ModelSpec messages: which version and signature a request names, and which have answered."""

from __future__ import annotations

from layerserve_server.access.caller import Caller
from layerserve_server.access.rights import Right
from layerserve_server.errors import InvalidRequestError
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving.model_pb2 import ModelSpec
from layerserve_server.repository.leases import Choice


def model_choice(spec: ModelSpec) -> Choice:
    """Returns the model name, version and label in a request. Raises InvalidRequestError if there is no model name."""
    if not spec.name:
        raise InvalidRequestError("model_spec: got no name, expected the name of a model")
    which = spec.WhichOneof("version_choice")
    return (
        spec.name,
        spec.version.value if which == "version" else None,
        spec.version_label if which == "version_label" else None,
    )


def chosen_by(caller: Caller, right: Right, spec: ModelSpec) -> Choice:
    """Returns what `model_choice` does. Raises as it and `Caller.check_model` do: before the model is looked up."""
    choice = model_choice(spec)
    caller.check_model(right, choice[0])
    return choice


def model_spec(name: str, version: int, signature: str = "") -> ModelSpec:
    """Returns the message for a version of a model."""
    spec = ModelSpec(name=name, signature_name=signature)
    spec.version.value = version
    return spec
