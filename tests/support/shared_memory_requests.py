"""Requests and callers of the Open Inference Protocol with tensors in shared memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from layerserve_server.protocols.inference import inference_pb2 as pb

SERVICE = "/inference.GRPCInferenceService/"
X = np.arange(4, dtype=np.float32).reshape(2, 2)


class Caller:
    """Calls methods of the Open Inference Protocol."""

    def __init__(self, channel: grpc.Channel, token: str | None = None) -> None:
        self._channel = channel
        self._metadata = [("authorization", f"Bearer {token}")] if token else []

    def __call__(self, method: str, request: Any) -> Any:
        reply = getattr(pb, type(request).__name__.replace("Request", "Response"))
        send = self._channel.unary_unary(SERVICE + method, type(request).SerializeToString, reply.FromString)
        return send(request, metadata=self._metadata, timeout=60)

    def register(self, name: str, key: str | Path, size: int = 64, offset: int = 0) -> None:
        key = f"/{key.name}" if isinstance(key, Path) else key
        request = pb.SystemSharedMemoryRegisterRequest(name=name, key=key, offset=offset, byte_size=size)
        self("SystemSharedMemoryRegister", request)

    def unregister(self, name: str = "") -> None:
        self("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name=name))

    def regions(self, name: str = "") -> list[str]:
        return sorted(self("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name=name)).regions)

    def infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        reply: pb.ModelInferResponse = self("ModelInfer", request)
        return reply


def placed(region: str, size: int, offset: int | None = None) -> dict[str, pb.InferParameter]:
    """The parameters of a tensor in shared memory."""
    found = {
        "shared_memory_region": pb.InferParameter(string_param=region),
        "shared_memory_byte_size": pb.InferParameter(int64_param=size),
    }
    return found if offset is None else {**found, "shared_memory_offset": pb.InferParameter(uint64_param=offset)}


def asked(source: dict[str, Any] | None = None, target: dict[str, Any] | None = None) -> pb.ModelInferRequest:
    """A request for the double of X, which may be in shared memory, as its result may be."""
    made = pb.ModelInferRequest(model_name="double", id="7", raw_input_contents=[] if source else [X.tobytes()])
    made.inputs.add(name="x", datatype="FP32", shape=X.shape, parameters=source)
    if target:
        made.outputs.add(name="y", parameters=target)
    return made


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
