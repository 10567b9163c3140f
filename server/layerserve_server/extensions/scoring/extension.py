"""What the extension adds: runs that compute the outputs of a model for a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layerserve_server.extensions.extension import Core, Extension, Part
from layerserve_server.settings.settings import Settings

if TYPE_CHECKING:
    from layerserve_server.training.run_kind import RunKind


def _run_kinds(settings: Settings) -> Sequence[RunKind]:
    from layerserve_server.extensions.scoring.kind import scoring_kind

    return [scoring_kind(settings.training_slots)]


def _main(core: Core) -> Part:
    from layerserve_server.extensions.scoring.service import ScoringService

    service = ScoringService(core.repository, core.runs, core.datasets, core.work, core.jobs, core.defaults)
    return Part(services=[service])


SCORING = Extension(name="scoring", run_kinds=_run_kinds, main=_main)
