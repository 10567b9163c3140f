"""What the extension adds: a process for each tracker, which copies the runs to it."""

from __future__ import annotations

from layerserve_server.extensions.extension import Core, Extension, Part
from layerserve_server.extensions.trackers.settings import TrackerSettings


def _main(core: Core) -> Part:
    from layerserve_server.extensions.trackers.processes import SinkProcesses

    settings = TrackerSettings.of(core.settings)
    processes = SinkProcesses(settings.trackers, core.runs.table.folder, settings.state_folder / "sinks")
    return Part(start=processes.start, close=processes.stop)


TRACKERS = Extension(name="trackers", settings=TrackerSettings, main=_main)
