"""What the extension adds: Jobs of a cluster in place of processes of runs."""

from __future__ import annotations

from layerserve_server.extensions.cluster.settings import ClusterSettings
from layerserve_server.extensions.extension import Extension
from layerserve_server.settings.settings import Settings
from layerserve_server.training.process.run_process import MakeProcess


def _run_processes(settings: Settings) -> MakeProcess | None:
    template = ClusterSettings.of(settings).training_job
    if template is None:
        return None
    # Imported here, since the client's library takes time and memory.
    from layerserve_server.extensions.cluster.cluster import Cluster

    return Cluster(template).process


CLUSTER = Extension(name="cluster", settings=ClusterSettings, run_processes=_run_processes)
