"""Checkpoints that requests name: the run that keeps one, and the version that a run which begins with it needs."""

from __future__ import annotations

from layerserve.v1 import tensor_pb2
from layerserve.v1 import training_pb2 as pb

from layerserve_server.access.caller import Caller
from layerserve_server.access.ownership import Access
from layerserve_server.errors import InvalidRequestError, UnknownVersionError
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import Lease
from layerserve_server.services.messages import chosen_by, lease
from layerserve_server.services.run_access import find_run
from layerserve_server.training.from_checkpoint import Start, parsed
from layerserve_server.training.runs.registry import Runs
from layerserve_server.training.runs.run import Run


def find(runs: Runs, caller: Caller, run_id: str, name: str) -> tuple[Run, Start]:
    """Returns a run and its checkpoint with an id, or the name "best" or "last".

    Raises as `find_run` does, and UnknownCheckpointError. Checkpoints have weights, so the run must be the caller's, or
    the caller must manage its model.
    """
    run = find_run(runs, caller, Access.FULL, run_id)
    return run, Start.find(run.folder, run.request, name)


def start_of(runs: Runs, caller: Caller, spec: pb.TrainSpec | pb.EvaluateSpec) -> Start | None:
    """Returns the checkpoint that a spec names; None if it names none.

    Raises as `find` does, and InvalidRequestError if it isn't one of the spec's model and version.
    """
    if not spec.from_checkpoint:
        return None
    name, version, label = chosen_by(caller, "train", spec.model)
    _, start = find(runs, caller, *parsed(spec.from_checkpoint))
    if name != start.request.model:
        raise InvalidRequestError(
            f"from_checkpoint: run {start.run} trained '{start.request.model}', got model '{name}'"
        )
    if label is not None or version not in (None, start.request.version):
        got = f"label '{label}'" if label is not None else f"version {version}"
        raise InvalidRequestError(
            f"from_checkpoint: run {start.run} started from version {start.request.version}, got {got}; expected none"
        )
    return start


def base_of(repository: Repository, caller: Caller, spec: tensor_pb2.ModelSpec, start: Start | None) -> Lease:
    """Leases the version that a run starts from. Raises as `messages.lease` does.

    For a run that begins with a checkpoint, which has its own files, it is another one if that version is gone.
    """
    if start is None:
        return lease(repository, caller, "train", spec)
    name = start.request.model
    try:
        return repository.leases.lease(name, start.request.version, None)
    except UnknownVersionError:
        return repository.leases.lease(name, None, None)
