"""The configuration of a model, in Triton's terms."""

from __future__ import annotations

from layerserve_server.errors import safe_text
from layerserve_server.inference.input_decoder import preferred
from layerserve_server.protocols.inference import inference_pb2 as pb
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.open_inference.datatypes import config_type
from layerserve_server.services.open_inference.service import PLATFORM, wire_shape


def model_config(version: LoadedVersion) -> pb.ModelConfig:
    """Returns the settings of a version in Triton's terms. Raises InvalidTensorError if the protocol lacks a dtype."""
    batched = version.model.plan().batched
    axes = slice(1, None) if batched else slice(None)
    made = pb.ModelConfig(
        name=version.name,
        platform=PLATFORM,
        backend=PLATFORM,
        max_batch_size=version.queue.max_batch_rows if batched else 0,
        version_policy=pb.ModelVersionPolicy(latest=pb.ModelVersionPolicy.Latest(num_versions=1)),
        input=[
            pb.ModelInput(name=spec.name, data_type=config_type(spec.dtype, spec.name), dims=wire_shape(spec)[axes])
            for spec in map(preferred, version.input_specs)
        ],
        output=[
            pb.ModelOutput(
                name=spec.name,
                data_type=config_type(spec.dtype, spec.name),
                dims=wire_shape(spec)[axes],
                label_filename=version.settings.class_labels.get(spec.name, ""),
            )
            for spec in version.model.output_specs
        ],
        default_model_filename=safe_text(version.found.path.name),
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=False),
        response_cache=pb.ModelResponseCache(enable=False),
    )
    if batched:
        made.dynamic_batching.SetInParent()
    return made
