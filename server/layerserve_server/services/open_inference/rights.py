"""The rights of the Open Inference Protocol's methods."""

from __future__ import annotations

from layerserve_server.access.rights import of_services

RIGHTS = of_services(
    {
        "inference.GRPCInferenceService": {
            # As Triton's health: without a model. That a model is ready would also reveal that it exists.
            "open": "ServerLive ServerReady",
            "any": "ModelReady ServerMetadata ModelMetadata",
            "predict": "ModelInfer ModelStreamInfer",
        }
    }
)
