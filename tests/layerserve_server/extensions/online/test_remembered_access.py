"""What is lost opens nothing of a session of online training: whatever becomes of files, models and servers."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, replace

import pytest
from layerserve.online.options import OnlineOptions
from layerserve_server.extensions.online.kind import ONLINE
from layerserve_server.training import events
from layerserve_server.training.request import RunRequest
from layerserve_server.training.runs.run import new_id
from remembered_access import World, assert_nobody_gets_more


class WorldOfSessions(World):
    """Its run is a session that was interrupted, so that it can be resumed."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        trained = self.state / "runs" / self.run
        self.run = new_id()
        folder = self.state / "runs" / self.run
        shutil.copytree(trained, folder)
        options = asdict(OnlineOptions(idle_seconds=1.0))
        request = replace(RunRequest.read(trained), kind=ONLINE, kind_options=options, data=())
        request.write(folder)
        (folder / "events.jsonl").unlink()
        for what in (
            events.Accepted("double", 1, 0, ""),
            events.Queued(0),
            events.Failed("no request came", 1, 1, resumable=True),
        ):
            events.append(folder, what)
        for app, _ in self.servers:
            app.runs.table.scan()


@pytest.mark.parametrize("seed", range(int(os.environ.get("COUNT", "1"))))
@pytest.mark.parametrize("named", [True, False], ids=["for some callers", "for all callers"])
def test_nobody_gets_more_by_what_is_lost(put, start, connect, tmp_path, seed, named):
    assert_nobody_gets_more(WorldOfSessions(put, start, connect, tmp_path, seed, named=named))
