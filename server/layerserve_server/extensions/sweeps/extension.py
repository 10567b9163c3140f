"""What the extension adds: searches over the settings of training, each a process that draws settings for runs."""

from __future__ import annotations

from layerserve_server.extensions.extension import Core, Extension, Part


def _main(core: Core) -> Part:
    from layerserve_server.extensions.sweeps.registry import Sweeps
    from layerserve_server.extensions.sweeps.service import SweepService

    settings, repository = core.settings, core.repository
    sweeps = Sweeps(
        settings.state_folder / "sweeps",
        core.runs,
        repository,
        core.checks.larger_is_better,
        slots=settings.training_slots,
        max_kept=settings.max_kept_runs,
    )
    core.work.add("sweep", sweeps.list)
    return Part(
        services=[SweepService(repository, sweeps, core.work, core.defaults, core.datasets)],
        start=sweeps.start,
        scan=sweeps.scan,
        stop=sweeps.stop,
    )


SWEEPS = Extension(name="sweeps", main=_main)
