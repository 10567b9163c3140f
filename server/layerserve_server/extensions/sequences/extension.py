"""What the extension adds: a taker of steps, a step model of each version that has sequences, settings and metrics."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from layerserve_server.extensions.extension import Core, Extension, Part, Process
from layerserve_server.extensions.sequences.settings import SequenceSettings

if TYPE_CHECKING:
    from layerserve_server.observability.families import Families
    from layerserve_server.repository.model_settings import ModelSettings

#: Interval at which sequences that have been idle for too long are looked for, in seconds.
SWEEP_SECONDS = 1.0


def _model_settings() -> type[ModelSettings]:
    from layerserve_server.extensions.sequences.model_settings import SequenceModelSettings

    return SequenceModelSettings


def _metrics(families: Families) -> None:
    from layerserve_server.extensions.sequences.metrics import SequenceMetrics

    SequenceMetrics(families)


def _serving(process: Process) -> Part:
    from layerserve_server.extensions.sequences.make_steps import make_steps
    from layerserve_server.services.prediction.request_taker import ForwardedRequests

    process.make_parts.append(partial(make_steps, process))
    if process.forward is not None:
        process.predictor.steps = ForwardedRequests(process.forward)
    return Part()


def _main(core: Core) -> Part:
    from layerserve_server.extensions.sequences.describe import SequenceBatching
    from layerserve_server.extensions.sequences.metrics import SequenceMetrics
    from layerserve_server.extensions.sequences.steps import Steps
    from layerserve_server.extensions.sequences.table import SequenceTable
    from layerserve_server.repository.watching import Watcher

    settings = SequenceSettings.of(core.settings)
    table = SequenceTable(settings, SequenceMetrics(core.metrics.families))
    steps = Steps(core.predictor, core.repository, table, lambda: core.state() == "draining")
    core.predictor.steps = steps
    core.open_inference.extensions.append("sequence")
    core.open_inference.configure.append(SequenceBatching(settings).configure)
    watcher = Watcher(SWEEP_SECONDS, steps.sweep)

    def stop() -> None:
        watcher.stop()
        watcher.wait()
        steps.close()

    return Part(start=watcher.start, stop=stop)


SEQUENCES = Extension(
    name="sequences",
    settings=SequenceSettings,
    model_settings=_model_settings,
    metrics=_metrics,
    serving=_serving,
    main=_main,
)
