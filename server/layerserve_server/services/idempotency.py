"""Idempotency keys of runs: a repeated call finds the run that an earlier call with its key has begun."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from google.protobuf.message import DecodeError
from layerserve.v1 import training_pb2 as pb

from layerserve_server.access.caller import Caller
from layerserve_server.disk import replace_file
from layerserve_server.errors import NotTrainableError, UnavailableError
from layerserve_server.services.run_access import seen_by
from layerserve_server.training.request import EVALUATION, TRAINING
from layerserve_server.training.runs.registry import Runs
from layerserve_server.training.runs.run import Run

logger = logging.getLogger(__name__)

#: Name of the file in a run's folder with the spec of its call.
SPEC = "spec.pb"

Spec: TypeAlias = pb.TrainSpec | pb.EvaluateSpec


class IdempotencyKeys:
    """Begins a run once for each key of a caller. Thread-safe."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        #: Caller and key of the calls that are looking for a run or begin one.
        self._held: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def begin(self, caller: Caller, spec: Spec, begin: Callable[[], Run]) -> tuple[Run, bool]:
        """Returns the run of a spec's key, and whether an earlier call has begun it; otherwise begins one.

        A run that doesn't exist for the caller any more isn't found. One whose data hasn't come completely is given up:
        it is begun anew. Raises NotTrainableError if the earlier call had another spec, UnavailableError while another
        call with the key begins a run, and as `RunTable.find` and `begin` do.
        """
        key = spec.idempotency_key
        if not key:
            return begin(), False
        with self._hold(caller.owner, key):
            found = self._runs.table.find(caller.owner, key, seen_by(caller))
            if found is not None:
                _check_same(found, spec)
                self._runs.abandon(found, "another call with its idempotency key has begun the run anew")
                if found.has_data:
                    return found, True
            run = begin()
            try:
                replace_file(run.folder / SPEC, spec.SerializeToString())
            except OSError as error:
                # The run goes on; a call with its key and another spec finds it, too.
                logger.warning("can't keep the spec of the run: %s", error.strerror, extra={"run": run.id})
            return run, False

    @contextmanager
    def _hold(self, caller: str, key: str) -> Iterator[None]:
        with self._lock:
            if (caller, key) in self._held:
                raise UnavailableError(f"another call with idempotency key '{key}' begins its run; try again")
            self._held.add((caller, key))
        try:
            yield
        finally:
            with self._lock:
                self._held.discard((caller, key))


def _check_same(run: Run, spec: Spec) -> None:
    """Raises NotTrainableError if a run was begun by a call with another spec. The text names the fields."""
    kind = TRAINING if isinstance(spec, pb.TrainSpec) else EVALUATION
    differ = ["kind"] if run.request.kind != kind else []
    if not differ:
        try:
            before = type(spec).FromString((run.folder / SPEC).read_bytes())
        except (OSError, DecodeError):
            return
        old, new = ({field.name: value for field, value in one.ListFields()} for one in (before, spec))
        differ = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    if differ:
        raise NotTrainableError(
            f"idempotency_key: got '{spec.idempotency_key}', the key of run '{run.id}', with another request; it "
            f"differs in {', '.join(differ)}"
        )
