"""The command that shows the logs of several runs over one another."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from layerserve import Client


@pytest.fixture
def runs(server):
    server.train_logs = lambda epoch: {"loss": 1.0 / epoch, "val_loss": 2.0 / epoch, "accuracy": epoch / 10}
    with Client(server.address) as client:
        return [client.train("double", np.ones((8, 3)), np.ones(8), epochs=count).wait().id for count in (2, 5)]


def test_runs_are_shown_over_one_another(cli, runs):
    status, out, _ = cli(f"run plot {' '.join(runs)} --log loss --log val_loss")
    assert status == 0
    assert all(run in out for run in runs)
    # Bars are scaled to both runs: the shorter one ends above the other.
    bars = re.findall("[▁▂▃▄▅▆▇█]+", out)
    assert bars == ["█▃", "█▃▂▁▁"] * 2
    assert "accuracy" not in out


def test_the_numbers_are_json(cli, runs):
    found = json.loads(cli(f"run plot {runs[0]} --json")[1])
    assert found[runs[0]]["loss"] == {"positions": [1, 2], "values": [1.0, 0.5], "seconds": [1.0, 2.0]}


def test_a_file_has_a_panel_for_each_log(cli, runs, tmp_path):
    pytest.importorskip("matplotlib")
    assert cli(f"run plot {' '.join(runs)} --to all.png --by step")[0] == 0
    assert (tmp_path / "all.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("run plot 20260101-0000-00000000", "unknown run"),
        ("run plot RUN --by hour", "--by: got hour, expected epoch or step"),
        ("run plot RUN --to a.jpg", "--to: got a.jpg, expected a name that ends in .png, .svg or .pdf"),
    ],
)
def test_what_cannot_be_plotted_is_refused(cli, runs, line, text):
    status, _, err = cli(line.replace("RUN", runs[0]))
    assert status == 1
    assert text in err


def test_a_run_without_logs_leaves_the_others_to_be_shown(cli, server, runs):
    server.train_logs = lambda epoch: {}
    with Client(server.address) as client:
        silent = client.train("double", np.ones((8, 3)), np.ones(8)).wait().id
    assert runs[0] in cli(f"run plot {runs[0]} {silent}")[1]


def test_runs_without_such_logs_are_no_error(cli, runs):
    assert cli(f"run plot {runs[0]} --log other")[1] == "no logs\n"
