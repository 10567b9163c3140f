"""The commands that change models: one line, JSON for programs, and a status that says whether all is in effect."""

import json
from functools import partial

import pytest
from layerserve import Client
from layerserve.testing import FakeServer
from layerserve.v1 import management_pb2


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "m.keras"
    path.write_bytes(b"x" * 1000)
    return path


def test_a_model_goes_through_its_life(cli, file, server):
    assert cli(f"upload {file.name} double --label new") == (
        *(0, "double: version 2 is published; the default is version 2\n", ""),
    )
    assert server.uploaded == {"model.keras": b"x" * 1000}
    assert cli("rollback double") == (0, "double: rolled back to version 1; the default is version 1\n", "")
    assert cli("pin double 2") == (0, "double: pinned to version 2; the default is version 2\n", "")
    assert cli("unpin double") == (0, "double: unpinned; the default is version 2\n", "")
    assert cli("label double stable 2") == (
        *(0, "double: label stable points at version 2; the default is version 2\n", ""),
    )
    assert cli("label double stable --remove")[1] == "double: label stable is removed; the default is version 2\n"
    cli("label double canary 1")
    assert cli("canary double") == (0, "double: no canary; the default is version 2\n", "")
    set_ = "double: 5% of callers get version 1; the default is version 2\n"
    assert cli("canary double 5%") == (0, set_, "")
    assert server.canaries == {"double": 0.05}
    assert cli("canary double")[1] == set_
    assert cli("pin double 2")[1] == set_.replace("double: ", "double: pinned to version 2; ")
    assert "1 canary 5%" in cli("models")[1]
    assert cli("canary double --settings")[1] == "double: no canary; the default is version 2\n"
    cli("canary double 5%")
    assert cli("rollback double 2")[1] == "double: rolled back to version 2; the default is version 2\n"
    assert cli("canary double")[1] == "double: no canary; the default is version 2\n"
    cli("label double canary --remove")
    assert cli("remove double 1") == (0, "double: version 1 is deleted; the default is version 2\n", "")
    status, _, error = cli("remove double 2")
    assert (status, error) == (1, "layerserve: model 'double' version 2: it is in use\n")
    assert cli("unload double") == (0, "double: unloaded; there is no default\n", "")
    assert cli("load double")[1] == "double: loaded; the default is version 2\n"
    assert cli("remove double --all --force") == (0, "double is deleted\n", "")
    assert cli("models double")[1] == "no model 'double'\n"


def test_a_canary_that_can_not_answer_yet_is_shown_with_its_state(cli, file, server):
    cli(f"upload {file.name} double")
    cli("label double canary 1")
    cli("canary double 5%")
    server.models[0].state = "loading"
    text = "double: 5% of callers get version 1, once it is ready: it is loading; the default is version 2\n"
    assert cli("canary double")[1] == text


def test_other_inputs_of_a_version_are_a_line(cli, file, monkeypatch):
    texts = ["input 'x': version 2 has (None, 4) float32, version 1 has (None, 3) float32"]
    published = partial(management_pb2.UploadPublished, differences=texts)
    monkeypatch.setattr(management_pb2, "UploadPublished", published)
    assert cli(f"upload {file.name} double") == (
        *(
            0,
            "double: version 2 is published; the default is version 2\n",
            f"layerserve: warning: model 'double': {texts[0]}\n",
        ),
    )
    assert json.loads(cli(f"upload {file.name} double --json")[1])["differences"] == texts


def test_what_was_done_is_json_for_programs(cli, file, server):
    done = json.loads(cli(f"upload {file.name} double --json")[1])
    assert (done["model"], done["version"], done["default"], done["lagging"]) == ("double", 2, 2, [])
    assert [one["version"] for one in done["versions"]] == [2, 1]
    for command in (
        "load double",
        "pin double 1",
        "unpin double",
        "rollback double 1",
        "label double a 1",
        "canary double",
    ):
        assert json.loads(cli(f"{command} --json")[1])["model"] == "double"
    assert json.loads(cli("remove double --all --force --json")[1]) == {"model": "double", "lagging": []}


@pytest.mark.parametrize("command", ["label double stable", "label double stable 1 --remove"])
def test_a_label_is_set_or_removed(cli, server, command):
    status, out, error = cli(command)
    assert (status, out) == (2, "")
    assert "expected a VERSION, or --remove" in " ".join(error.split())


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("canary double 5% --settings", "expected a PERCENT, or --settings"),
        ("canary double 5", "share: got '5', expected a percentage from '0%' to '100%', such as '5%'"),
        ("canary double 0.05", "share: got '0.05', expected a percentage"),
        ("canary double five", "share: got 'five', expected a percentage"),
        ("canary double 500%", "share: got '500%', expected a percentage"),
        ("canary single", "unknown model 'single'"),
    ],
)
def test_a_share_is_a_percentage(cli, server, command, expected):
    status, out, error = cli(command)
    assert (status, out) in ((2, ""), (1, ""))
    assert expected in " ".join(error.replace("│", " ").split())


@pytest.mark.parametrize("command", ["remove double", "remove double 1 --all"])
def test_a_version_or_all_is_removed(cli, server, command):
    status, out, error = cli(command)
    assert (status, out) == (2, "")
    assert "expected a VERSION, or --all" in " ".join(error.split())


def test_what_is_not_in_effect_everywhere_is_a_failure(cli, server, monkeypatch):
    change = server._change
    lagging = ["worker process 1: default is 1, expected 2"]
    monkeypatch.setattr(
        FakeServer,
        "_change",
        lambda self, name: management_pb2.ModelChange(versions=change(name).versions, lagging=lagging),
    )
    status, out, error = cli("load double")
    assert (status, out) == (1, "double: loaded; the default is version 1\n")
    assert error == "layerserve: not in effect yet in worker process 1: default is 1, expected 2\n"
    monkeypatch.setattr(Client, "delete_model", lambda self, name, *, force: tuple(lagging))
    assert cli("remove double --all --force") == (1, "double is deleted\n", error)


def test_a_file_that_is_not_there_is_told(cli, server):
    status, _, error = cli("upload absent.keras double")
    assert status == 1
    assert "absent.keras: No such file or directory" in error
