"""Settings of runs in a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from layerserve_server.settings.settings import Settings


class ClusterSettings(Settings):
    """The settings of a server whose runs may be Jobs."""

    training_backend: Literal["local", "kubernetes"] = Field(
        default="local",
        description=(
            "Where training runs are executed: 'local' in processes of this machine, or 'kubernetes' each as a Job of "
            "the cluster, whose pods share the folder of runs and the data root under the same paths (package "
            "lightkube)."
        ),
        json_schema_extra={"section": "Cluster"},
    )
    training_job: Path | None = Field(
        default=None,
        description=(
            "Manifest (YAML) of a Job, or of a TrainJob of Kubeflow Trainer, whose name, size and command are set for "
            "each run of the backend 'kubernetes'."
        ),
        json_schema_extra={"exists": "a file"},
    )

    @model_validator(mode="after")
    def _cluster_has_a_template(self) -> ClusterSettings:
        if (self.training_backend == "kubernetes") != (self.training_job is not None):
            raise ValueError(
                f"training_job: got {self.training_job} with training_backend '{self.training_backend}', expected a "
                "manifest for 'kubernetes' and none otherwise"
            )
        return self

    def needed_modules(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Adds the client's library of the cluster."""
        yield from super().needed_modules()
        if self.training_backend == "kubernetes":
            yield "training_backend", {"lightkube": "lightkube"}
