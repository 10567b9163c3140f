"""What is lost opens nothing of a scored dataset: whatever becomes of files, models and servers."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, replace

import pytest
from layerserve_server.extensions.scoring.kind import SCORING, ScoringOptions
from layerserve_server.training.request import RunRequest
from layerserve_server.training.runs.run import new_id
from remembered_access import World, assert_nobody_gets_more


class WorldOfScores(World):
    """Its run has scored a dataset."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        trained = self.state / "runs" / self.run
        self.run = new_id()
        folder = self.state / "runs" / self.run
        shutil.copytree(trained, folder)
        options = asdict(ScoringOptions("log.csv"))
        replace(RunRequest.read(trained), kind=SCORING, kind_options=options, publish=False).write(folder)
        for app, _ in self.servers:
            app.runs.table.scan()


@pytest.mark.parametrize("seed", range(int(os.environ.get("COUNT", "1"))))
@pytest.mark.parametrize("named", [True, False], ids=["for some callers", "for all callers"])
def test_nobody_gets_more_by_what_is_lost(put, start, connect, tmp_path, seed, named):
    assert_nobody_gets_more(WorldOfScores(put, start, connect, tmp_path, seed, named=named))
