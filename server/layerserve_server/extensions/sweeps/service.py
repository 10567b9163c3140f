"""Handlers of layerserve.v1.SweepService."""

from __future__ import annotations

import secrets
from functools import partial
from typing import Any

from layerserve.v1 import sweeps_pb2 as pb

from layerserve_server.access.caller import Caller
from layerserve_server.access.ownership import Access, access_to, check_access
from layerserve_server.datasets.store import DatasetStore
from layerserve_server.errors import InvalidRequestError, ServerError
from layerserve_server.extensions.sweeps.plan import Method
from layerserve_server.extensions.sweeps.registry import Sweeps
from layerserve_server.extensions.sweeps.space import MAX_DIMENSIONS, Dimension, shown_settings
from layerserve_server.extensions.sweeps.sweep import Sweep, SweepState, Trial, TrialState
from layerserve_server.repository.repository import Repository
from layerserve_server.services.dataset_arrays import use_datasets, with_datasets
from layerserve_server.services.idempotency import IdempotencyKeys
from layerserve_server.services.messages import lease, model_spec, parse, timestamp
from layerserve_server.services.open_work import OpenWork
from layerserve_server.services.run_access import owned, seen_by
from layerserve_server.services.run_requests import RunDefaults, parsed_json, training_request
from layerserve_server.training.request import TRAINING
from layerserve_server.transport.call import Call, Routes

SERVICE = "/layerserve.v1.SweepService/"

METHODS: dict[int, Method] = {
    pb.SWEEP_METHOD_UNSPECIFIED: Method.RANDOM,
    pb.SWEEP_METHOD_RANDOM: Method.RANDOM,
    pb.SWEEP_METHOD_GRID: Method.GRID,
}
METHOD_NUMBERS = {method: pb.SweepMethod.Value(f"SWEEP_METHOD_{method.name}") for method in Method}
STATES = {state: pb.SweepState.Value(f"SWEEP_STATE_{state.name}") for state in SweepState}
TRIAL_STATES = {state: pb.TrialState.Value(f"TRIAL_STATE_{state.name}") for state in TrialState}


class SweepService:
    """Handlers of the sweep service."""

    def __init__(
        self,
        repository: Repository,
        sweeps: Sweeps,
        work: OpenWork,
        defaults: RunDefaults,
        datasets: DatasetStore | None = None,
    ) -> None:
        """`datasets` is None if the server keeps none."""
        self._datasets = datasets
        self._repository = repository
        self._sweeps = sweeps
        self._work = work
        self._defaults = defaults
        self._keys = IdempotencyKeys("sweep", sweeps.find)

    def routes(self) -> Routes:
        """Returns the handlers."""
        return Routes(
            unary={
                SERVICE + "CreateSweep": self.create_sweep,
                SERVICE + "GetSweep": self.get_sweep,
                SERVICE + "ListSweeps": self.list_sweeps,
                SERVICE + "CancelSweep": self.cancel_sweep,
                SERVICE + "DeleteSweep": self.delete_sweep,
            },
            lists={SERVICE + "GetSweep", SERVICE + "ListSweeps"},
        )

    def create_sweep(self, call: Call) -> None:
        """Handles CreateSweep.

        Raises as `messages.lease`, `Quota.run`, `Sweeps.create` and `IdempotencyKeys.begin` do.
        """
        spec = parse(pb.CreateSweepRequest, call.request).spec
        method = METHODS.get(spec.method)
        if method is None:
            raise InvalidRequestError(f"method: got {spec.method}, expected one of {', '.join(map(str, METHODS))}")
        if len(spec.dimensions) > MAX_DIMENSIONS:
            raise InvalidRequestError(f"dimensions: got {len(spec.dimensions)}, expected at most {MAX_DIMENSIONS}")
        dimensions = tuple(map(_dimension, spec.dimensions))

        def begin() -> Sweep:
            with lease(self._repository, call.caller, "train", spec.train.model) as base:
                request = training_request(spec.train, base.name, base.version, self._defaults)
                request = with_datasets(owned(request, call.caller, self._repository), self._datasets, call.caller)
                sweep = self._sweeps.create(
                    request,
                    base,
                    dimensions,
                    method,
                    trials=spec.trials,
                    parallel=spec.parallel,
                    seed=spec.seed if spec.HasField("seed") else secrets.randbelow(2**31),
                    gone=lambda: call.answered,
                )
            try:
                use_datasets(request, self._datasets)
            except ServerError:
                self._sweeps.cancel(sweep.id)
                raise
            return sweep

        # The sweep may be of a model on which the caller has no right any more.
        call.caller.check_model("train", spec.train.model.name)
        key, once = spec.train.idempotency_key, partial(self._work.begin, call.caller, begin)
        sweep, _ = self._keys.begin(call.caller, key, TRAINING, spec, once)
        call.answer(pb.CreateSweepResponse(sweep=self._sweep(sweep)).SerializeToString())

    def get_sweep(self, call: Call) -> None:
        """Handles GetSweep: replies with a sweep and its trials. Raises as `Sweeps.get` does."""
        request = parse(pb.GetSweepRequest, call.request)
        sweep = self._get(call.caller, Access.READ, request.sweep_id)
        message = self._sweep(sweep)
        message.trials.extend(map(_trial, sorted(sweep.trials, key=lambda trial: trial.number)))
        call.answer(pb.GetSweepResponse(sweep=message).SerializeToString())

    def list_sweeps(self, call: Call) -> None:
        """Handles ListSweeps: replies with all sweeps, or those of one model, that exist for the caller."""
        request = parse(pb.ListSweepsRequest, call.request)
        found = self._sweeps.list(request.model_name)
        seen = {sweep: access_to(call.caller, sweep.request) for sweep in found}
        shown = [
            self._sweep(sweep) if access >= Access.READ else _existence(sweep)
            for sweep, access in seen.items()
            if access > Access.NONE
        ]
        call.answer(pb.ListSweepsResponse(sweeps=shown).SerializeToString())

    def cancel_sweep(self, call: Call) -> None:
        """Handles CancelSweep. Raises as `Sweeps.cancel` does."""
        request = parse(pb.CancelSweepRequest, call.request)
        self._get(call.caller, Access.FULL, request.sweep_id)
        sweep = self._sweeps.cancel(request.sweep_id)
        call.answer(pb.CancelSweepResponse(sweep=self._sweep(sweep)).SerializeToString())

    def delete_sweep(self, call: Call) -> None:
        """Handles DeleteSweep. Raises as `Sweeps.delete` does."""
        request = parse(pb.DeleteSweepRequest, call.request)
        self._get(call.caller, Access.FULL, request.sweep_id)
        self._sweeps.delete(request.sweep_id)
        call.answer(pb.DeleteSweepResponse().SerializeToString())

    def _get(self, caller: Caller, needed: Access, sweep_id: str) -> Sweep:
        """Returns a sweep. Raises as `Sweeps.get` and `check_access` do."""
        sweep = self._sweeps.get(sweep_id, seen_by(caller))
        check_access(caller, sweep.request, needed, f"sweep '{sweep.id}'")
        return sweep

    def _sweep(self, sweep: Sweep) -> pb.Sweep:
        plan, request = sweep.plan, sweep.request
        message = pb.Sweep(
            id=sweep.id,
            state=STATES[sweep.state],
            base=model_spec(request.model, request.version),
            reason=sweep.reason,
            method=METHOD_NUMBERS[plan.method],
            trials_total=plan.trials,
            trials_ended=sum(trial.ended for trial in sweep.trials),
            monitor=plan.monitor,
            larger_is_better=plan.larger_is_better,
            created_time=timestamp(sweep.created_time),
            seed=plan.seed,
            description=request.description,
            owner=self._sweeps.owner(sweep),
        )
        if sweep.published:
            message.published.CopyFrom(model_spec(request.model, sweep.published))
        if sweep.best >= 0:
            message.best = sweep.best
        if sweep.ended_time:
            message.ended_time.CopyFrom(timestamp(sweep.ended_time))
        return message


def _existence(sweep: Sweep) -> pb.Sweep:
    """Returns what those see of a sweep who may train its model but not read it."""
    return pb.Sweep(
        id=sweep.id,
        state=STATES[sweep.state],
        base=model_spec(sweep.request.model, sweep.request.version),
        created_time=timestamp(sweep.created_time),
    )


def _dimension(message: pb.Dimension) -> Dimension:
    if bool(message.values) == message.HasField("range"):
        raise InvalidRequestError(f"dimension '{message.name[:80]}': expected exactly one of values and a range")
    if message.values:
        values = parsed_json(message.values, f"dimension '{message.name[:80]}'")
        if not isinstance(values, list) or not values:
            raise InvalidRequestError(f"dimension '{message.name[:80]}': expected a list of values that isn't empty")
        return Dimension(message.name, tuple(values))
    range = message.range
    return Dimension(message.name, (), range.low, range.high, range.step, range.log, range.integer)


def _trial(trial: Trial) -> pb.Trial:
    history: dict[int, Any] = dict(trial.history)
    epochs = sorted(history)
    return pb.Trial(
        number=trial.number,
        state=TRIAL_STATES[trial.state],
        settings=[pb.TrialSetting(name=name, value=value) for name, value in shown_settings(trial.settings).items()],
        run_id=trial.run_id,
        value=trial.value,
        history=[history[epoch] for epoch in epochs],
        epochs=epochs,
        reason=trial.reason,
        seconds=trial.seconds,
    )
