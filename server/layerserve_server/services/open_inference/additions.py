"""What extensions add to what the Open Inference Protocol tells of the server and its models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from layerserve_server.protocols.inference.inference_pb2 import ModelConfig
from layerserve_server.repository.version import LoadedVersion


@dataclass(frozen=True)
class Additions:
    """Additions to the replies of `OpenInferenceService`."""

    #: Names of further extensions of the protocol.
    extensions: list[str] = field(default_factory=list)
    #: Each adds to the configuration of a version.
    configure: list[Callable[[LoadedVersion, ModelConfig], None]] = field(default_factory=list)
