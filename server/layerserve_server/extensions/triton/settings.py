"""Settings of the extension."""

from __future__ import annotations

import sys
from typing import Literal

from pydantic import Field, field_validator, model_validator

from layerserve_server.settings.settings import Settings


class TritonSettings(Settings):
    """The settings of a server for Triton's clients and dashboards."""

    triton_metrics: bool = Field(
        default=False,
        description="Also give metrics under the names that Triton has for them (nv_inference_*), at /metrics.",
        json_schema_extra={"section": "Triton"},
    )
    system_shared_memory: Literal["off", "read", "write"] = Field(
        default="off",
        description=(
            "Shared memory of clients on this host, which they register as in Triton: 'read' for inputs, 'write' for "
            "outputs as well. Linux only."
        ),
    )

    @field_validator("system_shared_memory")
    @classmethod
    def _on_linux(cls, value: str) -> str:
        if value != "off" and sys.platform != "linux":
            raise ValueError("'off': regions are files of /dev/shm, which Linux has")
        return value

    @model_validator(mode="after")
    def _clients_are_known(self) -> TritonSettings:
        if self.system_shared_memory != "off" and self.transport == "native" and self.workers > 1:
            # What the front of a worker passes on has no address of its client.
            raise ValueError("system_shared_memory requires transport 'grpcio' where there are several workers")
        return self
