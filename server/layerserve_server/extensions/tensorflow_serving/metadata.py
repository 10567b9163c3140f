"""Handlers of tensorflow.serving.PredictionService that run no model."""

from __future__ import annotations

from layerserve_server.errors import InvalidRequestError, UnknownMethodError, safe_text
from layerserve_server.extensions.tensorflow_serving.model_spec import chosen_by, model_spec
from layerserve_server.extensions.tensorflow_serving.predict import SERVICE
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow.signature_pb2 import SignatureDef, TensorInfo
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving.prediction_service_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDefMap,
)
from layerserve_server.extensions.tensorflow_serving.signatures import specs_of
from layerserve_server.extensions.tensorflow_serving.tensors import WIRE_TYPES, wire_shape
from layerserve_server.inference.input_decoder import preferred
from layerserve_server.inference.runner import TensorSpec
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.messages import parse
from layerserve_server.services.waiting import with_version
from layerserve_server.transport.call import Call, Routes

#: Methods for inputs as tf.Example messages.
EXAMPLE_METHODS = ("Classify", "Regress", "MultiInference")
#: The only field of metadata that there is.
SIGNATURES = "signature_def"
PREDICT_METHOD = "tensorflow/serving/predict"


class MetadataService:
    """Handlers of all methods but Predict (see `predict`)."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def routes(self) -> Routes:
        """Returns the handlers."""
        return Routes(
            unary={
                SERVICE + "GetModelMetadata": self.get_model_metadata,
                **{SERVICE + method: refuse_examples for method in EXAMPLE_METHODS},
            }
        )

    def get_model_metadata(self, call: Call) -> None:
        """Handles GetModelMetadata: replies with the signatures of a version.

        Loads the version if it isn't; raises as `chosen_by` and `with_version` do.
        """
        request = parse(GetModelMetadataRequest, call.request)
        choice = chosen_by(call.caller, "any", request.model_spec)
        if not request.metadata_field:
            raise InvalidRequestError("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != SIGNATURES:
                raise InvalidRequestError(
                    f"Metadata field {safe_text(field, 80)} is not supported, expected '{SIGNATURES}'"
                )

        def answer(version: LoadedVersion) -> None:
            call.set_metric_labels(version.name, version.version)
            response = GetModelMetadataResponse(model_spec=model_spec(version.name, version.version))
            response.metadata[SIGNATURES].Pack(_signatures(version))
            call.answer(response.SerializeToString())

        with_version(self._repository, call, choice, answer, kept=True)


def refuse_examples(call: Call) -> None:
    """Handles the methods for tf.Example messages, which no model has. Raises UnknownMethodError."""
    method = call.method.rpartition("/")[2]
    raise UnknownMethodError(
        f"{method}: models here have no signature for tf.Example messages; call Predict with a tensor for each input, "
        "and GetModelMetadata for their names"
    )


def _signatures(version: LoadedVersion) -> SignatureDefMap:
    found = SignatureDefMap()
    for key, names in version.signatures.items():
        inputs, outputs = specs_of(version, names)
        signature = SignatureDef(method_name=PREDICT_METHOD)
        for name, spec in inputs.items():
            # The name in TensorFlow's graph, which no request uses.
            signature.inputs[name].CopyFrom(_info(f"{key}_{name}:0", preferred(spec)))
        for name, spec in outputs.items():
            signature.outputs[name].CopyFrom(_info(f"{name}:0", spec))
        found.signature_def[key].CopyFrom(signature)
    return found


def _info(name: str, spec: TensorSpec) -> TensorInfo:
    return TensorInfo(name=name, dtype=WIRE_TYPES[spec.dtype].number, tensor_shape=wire_shape(spec.shape))
