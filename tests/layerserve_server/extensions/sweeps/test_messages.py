"""Sweeps as messages."""

from __future__ import annotations

from types import SimpleNamespace

from fake_calls import CallObserver, FakeCall, event_batches_here
from layerserve.v1 import sweeps_pb2, tensor_pb2
from layerserve_server.extensions.sweeps.plan import Method, Plan
from layerserve_server.extensions.sweeps.service import SweepService
from layerserve_server.extensions.sweeps.space import Dimension
from layerserve_server.extensions.sweeps.sweep import Sweep, SweepState, Trial, TrialState
from layerserve_server.services import messages
from layerserve_server.training.request import RunRequest
from whole_messages import whole


def test_a_sweep_is_described_whole(tmp_path):
    dimension = Dimension("batch_size", (), 8.0, 64.0, 8.0, log=True, integer=True)
    sweep = Sweep(
        id="s1",
        folder=tmp_path,
        plan=Plan((dimension,), Method.GRID, 9, 2, 5, "val_loss", larger_is_better=True),
        request=RunRequest("m", 4, (), description="why"),
        created_time=1.5,
        state=SweepState.FINISHED,
        trials=[
            Trial(0, {"seed": 1}),
            Trial(1, {"seed": 2}, TrialState.FAILED, "r1", 0.25, {3: 0.5, 1: 0.75}, reason="no room", seconds=2.5),
        ],
        best=1,
        published=7,
        reason="all trials were tried",
        ended_time=3.5,
    )
    service = SweepService(None, SimpleNamespace(get=lambda *_: sweep, owner=lambda _: "here", find=None), None, None)
    call = FakeCall(event_batches_here(CallObserver()), sweeps_pb2.GetSweepRequest(sweep_id="s1").SerializeToString())
    service.get_sweep(call)
    (reply,) = call.sent
    assert sweeps_pb2.GetSweepResponse.FromString(reply).sweep == whole(
        sweeps_pb2.Sweep(
            id="s1",
            state=sweeps_pb2.SWEEP_STATE_FINISHED,
            base=tensor_pb2.ModelSpec(name="m", version=4),
            published=tensor_pb2.ModelSpec(name="m", version=7),
            reason="all trials were tried",
            method=sweeps_pb2.SWEEP_METHOD_GRID,
            trials_total=9,
            trials_ended=1,
            monitor="val_loss",
            larger_is_better=True,
            best=1,
            trials=[
                sweeps_pb2.Trial(
                    state=sweeps_pb2.TRIAL_STATE_RUNNING, settings=[sweeps_pb2.TrialSetting(name="seed", value="1")]
                ),
                whole(
                    sweeps_pb2.Trial(
                        number=1,
                        state=sweeps_pb2.TRIAL_STATE_FAILED,
                        settings=[sweeps_pb2.TrialSetting(name="seed", value="2")],
                        run_id="r1",
                        value=0.25,
                        history=[0.75, 0.5],
                        epochs=[1, 3],
                        reason="no room",
                        seconds=2.5,
                    )
                ),
            ],
            created_time=messages.timestamp(1.5),
            ended_time=messages.timestamp(3.5),
            seed=5,
            description="why",
            owner="here",
        )
    )
