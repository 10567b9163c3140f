"""What is lost opens nothing of a sweep: whatever becomes of files, models and servers (see `remembered_access`)."""

from __future__ import annotations

import os
import time

import pytest
from layerserve.v1 import sweeps_pb2 as pb
from layerserve_server.extensions.sweeps.plan import Method, Plan
from layerserve_server.extensions.sweeps.sweep import Sweep, SweepState
from layerserve_server.training.request import RunRequest
from layerserve_server.training.runs.run import new_id
from remembered_access import World, assert_nobody_gets_more


class WorldOfSweeps(World):
    """Has a sweep, of which it tries everything."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.sweep = self.swept("owner-who-reads")

    def swept(self, token):
        """A sweep that has ended, as the one of a caller is kept."""
        folder = self.state / "sweeps" / new_id()
        folder.mkdir(parents=True)
        callers = ("owner*", "friend*") if self.named else None
        request = RunRequest(model="double", version=1, data=(), caller=token, callers=callers)
        plan = Plan((), Method.GRID, 1, 1, 1, "loss", False)
        sweep = Sweep(folder.name, folder, plan, request, time.time(), SweepState.FINISHED)
        request.write(folder)
        plan.write(folder)
        sweep.save()
        return sweep.id

    def tries(self):
        """Calls about the sweep."""
        yield "sweep", "SweepService/GetSweep", pb.GetSweepRequest(sweep_id=self.sweep)
        yield "sweep", "SweepService/CancelSweep", pb.CancelSweepRequest(sweep_id=self.sweep)

    def listed(self, channel, token):
        """Whether a caller finds the sweep."""
        found = self.list_of(channel, token, "SweepService/ListSweeps", pb.ListSweepsResponse).sweeps
        if any(one.id == self.sweep for one in found):
            yield "sweeps"
            if any(one.description for one in found):
                yield "sweeps with descriptions"


@pytest.mark.parametrize("seed", range(int(os.environ.get("COUNT", "3"))))
@pytest.mark.parametrize("named", [True, False], ids=["for some callers", "for all callers"])
def test_nobody_gets_more_by_what_is_lost(put, start, connect, tmp_path, seed, named):
    assert_nobody_gets_more(WorldOfSweeps(put, start, connect, tmp_path, seed, named=named))


def test_who_may_do_what_with_a_sweep(put, start, connect, tmp_path):
    allowed = WorldOfSweeps(put, start, connect, tmp_path, 0, named=False).allowed()

    def who(what):
        return {token for token, _, one in allowed if one.endswith(what)}

    managers = {"friend-who-manages", "stranger-who-manages", "stranger-who-may-all"}
    assert who("/GetSweep") == {"owner-who-reads", "friend", "stranger-who-reads", "stranger", None} | managers
    assert who("/CancelSweep") == {"owner-who-reads"} | managers
