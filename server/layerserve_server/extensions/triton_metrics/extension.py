"""What the extension adds: further metrics at /metrics."""

from __future__ import annotations

from layerserve_server.extensions.extension import Core, Extension, Part
from layerserve_server.extensions.triton_metrics.settings import TritonMetricsSettings


def _main(core: Core) -> Part:
    if not TritonMetricsSettings.of(core.settings).triton_metrics:
        return Part()
    from layerserve_server.extensions.triton_metrics.metrics import triton
    from layerserve_server.observability.collectors import Extended
    from layerserve_server.transport.probes import MetricPage

    return Part(metric_pages={"/metrics": MetricPage(Extended(core.registry, triton))})


TRITON_METRICS = Extension(name="triton_metrics", settings=TritonMetricsSettings, main=_main)
