"""What is lost opens nothing: whatever becomes of files, models and servers, no caller gets more than it had.

A model with a run and two datasets goes through random events. After each, every kind of caller tries everything.
COUNT is the number of random sequences.
"""

from __future__ import annotations

import os

import pytest
from remembered_access import World, assert_nobody_gets_more


@pytest.mark.parametrize("seed", range(int(os.environ.get("COUNT", "3"))))
@pytest.mark.parametrize("named", [True, False], ids=["for some callers", "for all callers"])
def test_nobody_gets_more_by_what_is_lost(put, start, connect, tmp_path, seed, named):
    assert_nobody_gets_more(World(put, start, connect, tmp_path, seed, named=named))


def test_who_may_do_what_with_a_run(put, start, connect, tmp_path):
    world = World(put, start, connect, tmp_path, 0, named=False)
    allowed = world.allowed()

    def who(method):
        return {token for token, _, one in allowed if one.endswith(f"/{method}")}

    trains = {"owner", "friend-who-trains", "stranger-who-trains"}
    reads = {"owner-who-reads", "friend", "stranger-who-reads", "stranger", None}
    managers = {"friend-who-manages", "stranger-who-manages", "stranger-who-may-all"}
    assert who("GetRun") == trains | reads | managers
    assert who("WatchRun") == who("GetRunSeries") == reads | managers
    full = {"owner-who-reads"} | managers
    for method in ("DownloadRunFile", "CancelRun", "UpdateRun", "PauseRun"):
        assert who(method) == full, method
    private = {token for token, about, _ in allowed if about == "private dataset"}
    assert private == {"owner-who-reads"} | managers
    described = {token for token, _, what in allowed if what == "runs with descriptions"}
    assert described == reads | managers
