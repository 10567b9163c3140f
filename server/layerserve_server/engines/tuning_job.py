"""The job that chooses the engines of a model.

It sends {"trying": name} for each engine that it tries, and replies {"dropped": {name: reason}} or {"error": why the
model can't be tuned}.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerserve_server.jobs.channel import Channel

if TYPE_CHECKING:
    from layergraph.models.model import Model

#: Maximum time for waiting while runs compute, in seconds.
MAX_BUSY_SECONDS = 600.0


def choose_engines(arguments: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The job: writes what is chosen to the folder."""
    import torch
    from layergraph.execution.tuning.engine_folder import NOTE

    from layerserve_server.inference.runner import load_plugins
    from layerserve_server.training.run_folder.computing import is_computing

    load_plugins()
    job = arguments
    torch.set_num_threads(job["threads"])
    end = time.monotonic() + MAX_BUSY_SECONDS
    try:
        found = (
            _model(job)
            .plan()
            .tune(
                engines=job["engines"],
                seconds=job["seconds"],
                threads=job["threads"],
                shared=True,
                trying=lambda name: channel.send({"trying": name}),
                busy=lambda: time.monotonic() < end and is_computing(Path(job["runs"])),
                folder=Path(job["folder"]),
            )
        )
    except Exception as reason:
        # The file may have been removed or replaced meanwhile.
        return {"error": (str(reason) or type(reason).__name__)[:500]}
    reply: dict[str, Any] = {"dropped": dict(found.dropped)}
    if not (Path(job["folder"]) / NOTE).exists():
        why = "; ".join(f"{name}: {why}" for name, why in found.dropped.items())[:2000]
        reply |= {"error": f"no engine was chosen: {why}", "late": found.late}
    return reply


def _model(job: Mapping[str, Any]) -> Model:
    model = _read(job)
    if not job["derived"]:
        return model
    module, _, name = job["derived"].partition(":")
    made: Model = getattr(import_module(module), name)(model)
    return made


def _read(job: Mapping[str, Any]) -> Model:
    import layergraph

    from layerserve_server.importing.imports import Imports
    from layerserve_server.jobs.jobs import Jobs

    if job["imports"] is None:
        return layergraph.load_model(Path(job["file"]))
    spare = None if job["spare"] is None else Path(job["spare"])
    jobs = Jobs()
    imports = Imports(Path(job["imports"]), jobs, spare)
    try:
        return imports.load(Path(job["file"]))
    finally:
        imports.close()
        jobs.close()
