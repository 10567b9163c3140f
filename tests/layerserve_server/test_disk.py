"""Files that the server writes for itself: damage of one of them is an error that their readers expect."""

import pytest
from layerserve_server.datasets.dataset import RECORD, Dataset
from layerserve_server.disk import json_object
from layerserve_server.training.events import Event
from layerserve_server.training.online.publications import NOTE, read_published
from layerserve_server.training.request import RunRequest
from layerserve_server.training.result import OUTCOME, RunResult
from layerserve_server.training.sweeps.plan import PLAN, Plan
from layerserve_server.training.sweeps.sweep import TRIALS, Sweep

DAMAGED = ("", "\0" * 100, "null", "1", '"x"', "[]", "NaN", "[" * 5000, "1" * 5000)


@pytest.mark.parametrize("text", DAMAGED)
def test_what_is_no_object_is_an_error_of_values(text, tmp_path):
    for read in (json_object, RunRequest.from_json, lambda text: Event.from_line(text.encode())):
        with pytest.raises(ValueError, match=r"."):
            read(text)
    for name, read in ((RECORD, Dataset.read), (PLAN, Plan.read)):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=r"."):
            read(tmp_path)
    (tmp_path / TRIALS).write_text(text)
    for name, read in ((OUTCOME, RunResult.read), (NOTE, read_published)):
        (tmp_path / name).write_text(text)
        assert read(tmp_path) is None
    sweep = Sweep("s", tmp_path, None, None, 0.0)
    with pytest.raises(ValueError, match=r"."):
        sweep.refresh()


def test_an_object_is_read():
    assert json_object('{"a": [1, NaN]}')["a"][0] == json_object(b'{"a": 1}')["a"] == 1
