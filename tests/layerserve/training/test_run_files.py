"""Files of runs: listed, and saved under their names and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from layerserve import NotFound

X, Y = np.zeros((4, 2), "float32"), np.zeros((4, 2), "float32")
FILES = {
    "log.csv": b"epoch,loss\n0,0.5\n",
    "logs/train/events.1": bytes(range(256)) * 20,
    "../out": b"no",
    "/.x": b"no",
}


@pytest.fixture(name="run")
def _run(client, server):
    run = client.train("double", X, Y).wait()
    server.runs[run.id].files.update(FILES)
    return run


def test_files_are_listed_by_name(run):
    assert [(file.name, file.bytes) for file in run.files()] == [(name, len(FILES[name])) for name in sorted(FILES)]


def test_a_file_is_saved_under_its_name_in_a_folder(run, tmp_path):
    saved = run.download("logs/train/events.1", tmp_path)
    assert saved == tmp_path / "logs" / "train" / "events.1"
    assert saved.read_bytes() == FILES["logs/train/events.1"]


def test_a_file_is_saved_as_what_one_wants(run, tmp_path):
    assert run.download("log.csv", tmp_path / "mine.csv").read_bytes() == FILES["log.csv"]


@pytest.mark.parametrize("name", ["../out", "/.x"])
def test_no_name_leads_out_of_the_folder(run, tmp_path, name):
    folder = tmp_path / "in"
    folder.mkdir()
    assert run.download(name, folder).is_relative_to(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_file_that_is_not_there(run, tmp_path):
    with pytest.raises(NotFound, match=r"no file 'log\.txt'"):
        run.download("log.txt", tmp_path)
    assert not list(tmp_path.iterdir())
