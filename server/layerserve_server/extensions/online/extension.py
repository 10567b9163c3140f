"""What the extension adds: sessions of training step by step, which are a kind of run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layerserve_server.extensions.extension import Core, Extension, Part
from layerserve_server.extensions.online.settings import OnlineSettings
from layerserve_server.settings.settings import Settings

if TYPE_CHECKING:
    from layerserve_server.training.run_kind import RunKind


def _run_kinds(settings: Settings) -> Sequence[RunKind]:
    from layerserve_server.extensions.online.kind import online_kind

    return [online_kind(OnlineSettings.of(settings).max_online_sessions)]


def _main(core: Core) -> Part:
    from layerserve_server.extensions.online.service import OnlineTrainingService

    idle_seconds = OnlineSettings.of(core.settings).online_idle_seconds
    service = OnlineTrainingService(core.repository, core.runs, core.work, core.defaults, idle_seconds)
    return Part(services=[service])


ONLINE = Extension(name="online", settings=OnlineSettings, run_kinds=_run_kinds, main=_main)
