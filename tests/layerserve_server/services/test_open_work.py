"""Which work counts towards a caller's quota."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from layerserve_server.access.caller import Caller
from layerserve_server.access.quota import Quota
from layerserve_server.errors import QuotaError
from layerserve_server.services.open_work import OpenWork


def run(caller: str, *, ended: bool = False, part_of: str = "") -> Any:
    request = SimpleNamespace(caller=caller, part_of=part_of)
    return SimpleNamespace(request=request, log=SimpleNamespace(ended=ended))


PAUSED, ENDED = run("ann"), run("ann", ended=True)


@pytest.mark.parametrize(("again", "allowed"), [(None, False), (ENDED, False), (PAUSED, True)])
def test_a_run_that_goes_on_counts_already_if_it_was_paused(again: Any, allowed: bool) -> None:
    runs = {"paused": PAUSED, "ended": ENDED, "bobs": run("bob"), "part": run("ann", part_of="sweep")}
    table = SimpleNamespace(list_all=lambda model="": runs)
    work = OpenWork(SimpleNamespace(table=table))  # type: ignore[arg-type]
    caller = Caller("ann", quota=Quota("ann", None, max_runs=1))
    with nullcontext() if allowed else pytest.raises(QuotaError, match="got 1 queued and running runs"):
        assert work.begin(caller, lambda: "begun", again) == "begun"


def test_work_of_an_extension_counts_once() -> None:
    sweep: Any = SimpleNamespace(request=SimpleNamespace(caller="ann"), ended=False)
    runs = {"part": run("ann", part_of="sweep")}
    work = OpenWork(SimpleNamespace(table=SimpleNamespace(list_all=lambda model="": runs)))  # type: ignore[arg-type]
    work.add("sweep", lambda: [sweep])
    for most, allowed in ((1, False), (2, True)):
        caller = Caller("ann", quota=Quota("ann", None, max_runs=most))
        with nullcontext() if allowed else pytest.raises(QuotaError):
            work.begin(caller, lambda: None)
