"""What the extension adds: estimates of runs, from trials of their first steps."""

from __future__ import annotations

from layerserve_server.extensions.extension import Core, Extension, Part


def _main(core: Core) -> Part:
    from layerserve_server.extensions.estimates.estimator import Estimator
    from layerserve_server.extensions.estimates.measured_run import MeasuredRuns
    from layerserve_server.extensions.estimates.service import RunEstimates

    measured = MeasuredRuns(core.jobs, core.runs.table.folder, core.settings.check_seconds)
    estimator = Estimator(core.runs, core.repository, measured)
    return Part(services=[RunEstimates(core.repository, estimator, core.defaults, core.datasets)])


ESTIMATES = Extension(name="estimates", main=_main)
