"""What the extension adds: the method Explain."""

from __future__ import annotations

from layerserve_server.extensions.explanations.settings import ExplanationSettings
from layerserve_server.extensions.extension import Core, Extension, Part


def _main(core: Core) -> Part:
    from layerserve_server.extensions.explanations.service import ExplanationService

    seconds = ExplanationSettings.of(core.settings).explain_seconds
    return Part(services=[ExplanationService(core.repository, core.predictor, core.jobs, seconds)])


EXPLANATIONS = Extension(name="explanations", settings=ExplanationSettings, main=_main)
