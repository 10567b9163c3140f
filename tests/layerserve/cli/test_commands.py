"""The command line, called as the console script calls it, against the fake server."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version

import numpy as np
import pytest
import typer
from layerserve.cli import extensions, main
from layerserve.cli.app import application
from layerserve.cli.slice_commands import slice_commands
from layerserve.testing.fake_run import FakeRun
from layerserve.training.data import ROLES


@pytest.fixture
def data(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((64, 3)), y=np.zeros(64))
    return "--x d.npz:x --y d.npz:y"


def test_models_are_a_table_for_people(cli):
    status, out, err = cli("models")
    assert (status, err) == (0, "")
    assert "failed: file is truncated" in out
    assert "x (None, 3) float32" in out


def test_models_say_while_an_engine_is_being_chosen(cli, server):
    server.add_model("new", lambda a: {}, [], []).choosing_engine = True
    assert "still being chosen" not in cli("models double")[1]
    assert "still being chosen" in cli("models new")[1]
    (model,) = json.loads(cli("models new --json")[1])["models"]
    assert (model["engines"], model["choosing_engine"]) == ([], True)


def test_models_are_json_for_programs(cli):
    status, out, _ = cli("models --json double")
    (model,) = json.loads(out)["models"]
    assert (status, model["name"], model["state"], model["labels"]) == (0, "double", "ready", ["stable"])
    assert model["inputs"] == [{"name": "x", "shape": [None, 3], "dtype": "float32", "encoding": ""}]


def test_no_models_is_said(cli):
    assert cli("models nope")[1] == "no model 'nope'\n"


@pytest.mark.parametrize("text", ["[[1, 2, 0.1]]", '{"x": [[1, 2, 0.1]]}'])
def test_predict_takes_json_and_gives_json(cli, text):
    status, out, _ = cli("predict double --json", text)
    assert status == 0
    assert json.loads(out) == {"model": "double", "version": 1, "outputs": {"y": [[2.0, 4.0, 0.2]]}}


def test_what_json_has_no_number_for_comes_as_text(cli):
    _, out, _ = cli("predict double --json", "[[NaN, Infinity, -Infinity]]")
    assert json.loads(out)["outputs"]["y"] == [["NaN", "Infinity", "-Infinity"]]


def test_predict_shows_arrays_to_people(cli):
    status, out, _ = cli("predict double", "[[1, 2, 3]]")
    assert (status, out) == (0, "double version 1\ny: float32 (1, 3)\n[[2. 4. 6.]]\n")


def test_predict_shows_how_long_the_server_took(cli):
    times = "queue 0.000 ms, compute 0.000 ms, total 0.000 ms"
    assert cli("predict double --timing", "[[1, 2, 3]]")[1].startswith(f"double version 1: {times}\ny: float32")
    found = json.loads(cli("predict double --timing --json", "[[1, 2, 3]]")[1])
    assert found["timing"] == {"queue": 0.0, "compute": 0.0, "total": 0.0}


def test_predict_takes_files_and_writes_files(cli, tmp_path):
    np.save(tmp_path / "left.npy", np.ones((2, 2)))
    (tmp_path / "right.json").write_text("[[1, 2], [3, 4]]")
    inputs = "predict two -i left=left.npy -i right=right.json"
    assert cli(f"{inputs} -o both.npz")[0] == 0
    with np.load("both.npz") as written:
        assert written["sum"].tolist() == [[2, 3], [4, 5]]
        assert written["ids"].dtype == np.int64
    assert cli(f"{inputs} --outputs ids -o ids.npy")[0] == 0
    assert np.load("ids.npy").tolist() == [[1, 1], [1, 1]]
    assert cli(f"{inputs} --outputs ids,sum -o both.json")[0] == 0
    assert list(json.loads((tmp_path / "both.json").read_text())["outputs"]) == ["ids", "sum"]


def test_predict_takes_the_arrays_of_an_archive_by_name(cli, tmp_path):
    np.savez(tmp_path / "two.npz", left=np.ones((1, 2)), right=np.ones((1, 2)))
    assert json.loads(cli("predict two --json -i two.npz --outputs sum")[1])["outputs"] == {"sum": [[2.0, 2.0]]}


def test_predict_passes_over_what_an_archive_has_besides_the_inputs(cli, tmp_path):
    np.savez(tmp_path / "d.npz", left=np.ones((1, 2)), right=np.ones((1, 2)), labels=np.ones(1), more=np.ones(1))
    status, out, err = cli("predict two --json -i d.npz --outputs sum")
    assert (status, json.loads(out)["outputs"]) == (0, {"sum": [[2.0, 2.0]]})
    assert err == "layerserve: d.npz: not inputs of the model, ignored: labels, more\n"
    np.savez(tmp_path / "e.npz", x=np.ones((1, 3)), y=np.ones(1))
    assert cli("predict double --json -i e.npz")[::2] == (0, "layerserve: e.npz: not inputs of the model, ignored: y\n")


def test_predict_refuses_what_only_looks_like_an_input(cli, tmp_path):
    """A misspelt name is not passed over: of an archive that has no input at all, or where the name is given."""
    np.savez(tmp_path / "d.npz", lefft=np.ones((1, 2)), rigt=np.ones((1, 2)))
    np.save(tmp_path / "left.npy", np.ones((1, 2)))
    for inputs in ("-i d.npz", "-i left=left.npy -i rigt=left.npy"):
        status, _, err = cli(f"predict two {inputs}")
        assert status == 1
        assert "did you mean" in err


def test_the_version_is_shown_with_typer_and_without(cli, monkeypatch):
    assert cli("--version") == (0, f"layerserve {version('layerserve')}\n", "")
    assert cli("--timeout 3 --version")[:2] == (0, f"layerserve {version('layerserve')}\n")
    assert "--version" in cli("--help")[1]
    monkeypatch.setitem(sys.modules, "typer", None)
    assert cli("--version")[0] == 0


def test_the_package_is_a_command_where_its_script_is_not_on_the_path():
    shown = subprocess.run(
        [sys.executable, "-m", "layerserve", "--version"], capture_output=True, text=True, check=True
    )
    assert shown.stdout == f"layerserve {version('layerserve')}\n"


def test_download_makes_the_folder_that_it_is_told(cli, tmp_path):
    assert cli("download double new/folder/") == (0, "new/folder/double-1.keras\n", "")
    assert (tmp_path / "new/folder/double-1.keras").exists()
    assert cli("download double")[1] == "double-1.keras\n"


def test_runs_say_of_what_kind_they_are(cli, data):
    cli(f"train double {data} --epochs 2 --description learn")
    cli(f"evaluate double {data} --description measure")
    rows = [line.split("│") for line in cli("run list")[1].splitlines() if "double" in line]
    kinds = {row[-2].strip(): (row[2].strip(), row[6].strip()) for row in rows}
    assert kinds == {"learn": ("training", "2/2"), "measure": ("evaluation", "")}


def test_shapes_show_every_call(cli):
    status, out, _ = cli("shapes shared")
    assert status == 0
    for text in ("conv", "Conv2D", "(None, 16, 16, 3)", "b:0:0", "never called"):
        assert text in out
    layers = json.loads(cli("shapes shared conv --json")[1])["layers"]
    assert [node["inputs"][0]["shape"] for node in layers[0]["nodes"]] == [[None, 8, 8, 3], [None, 16, 16, 3]]


def test_train_shows_losses_and_what_it_published(cli, data):
    status, out, err = cli(f"train double {data} --epochs 2")
    assert status == 0
    assert "epoch 2/2 - 500 ms - loss: 0.5" in err
    assert "published double version 2" in out
    assert "0.5" in out


def test_train_tells_programs_each_event_on_a_line(cli, data):
    status, out, err = cli(f"train double {data} --json")
    events = [json.loads(line) for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert [event["event"] for event in events] == [
        "accepted",
        "queued",
        "started",
        "step",
        "step",
        "epoch",
        "finished",
    ]
    assert events[-1]["version"] == 2


def test_a_run_that_fails_or_is_cancelled_gives_status_1(cli, server, data):
    server.fail_training("loss is NaN", 1, 2)
    status, _, err = cli(f"train double {data}")
    assert status == 1
    assert err.splitlines()[-1] == "layerserve: training run 'run-1' failed in epoch 1, step 2: loss is NaN"
    server.hold_training()
    run_id = cli(f"train double {data} --detach")[1].strip()
    assert cli(f"run cancel {run_id}")[:2] == (0, f"run {run_id} of double is being cancelled\n")
    server.release_training()
    assert cli(f"run watch {run_id}")[0] == 1
    assert cli(f"run cancel {run_id}")[1] == f"run {run_id} of double is cancelled\n"


def test_a_run_is_paused_changed_stopped_and_published(cli, server, data):
    server.hold_training()
    line = f"train double {data} --epochs 3 --publish no --detach --metadata a=1 --metadata b=x=y --idempotency-key k1"
    run_id = cli(line)[1].strip()
    assert dict(server.runs[run_id].spec.metadata) == {"a": "1", "b": "x=y"}
    assert cli(line)[1].strip() == run_id
    assert cli(f"run pause {run_id}")[:2] == (0, f"run {run_id} of double is being paused\n")
    out = cli(f"run update {run_id} --priority 4 --metadata c=3 --remove-metadata a --description now --json")[1]
    info = json.loads(out)
    assert (info["priority"], info["metadata"], info["description"]) == (4, {"b": "x=y", "c": "3"}, "now")
    assert cli(f"run update {run_id} --metadata c=4")[1] == f"run {run_id} of double is updated\n"
    assert cli(f"run stop {run_id}")[1] == f"run {run_id} of double is being stopped\n"
    assert cli(f"run resume {run_id}")[:2] == (0, f"run {run_id} of double is being resumed\n")
    server.release_training()
    assert cli(f"run watch {run_id}")[0] == 0
    assert cli(f"run publish {run_id} --label best --expected-base-version 1")[1] == "published double version 2\n"
    assert cli(f"run stop {run_id}")[1] == f"run {run_id} of double is finished\n"
    for arguments, text in (
        ("", "update: got no change"),
        ("--metadata a", "--metadata: got 'a' with no '='"),
        ("--metadata a=1 --metadata a=2", "--metadata: got 'a=2' with a key twice"),
    ):
        status, _, err = cli(f"run update {run_id} {arguments}")
        assert (status, text in err) == (1, True)


def test_runs_are_filtered(cli, server, data):
    for metadata in ("p=1", "p=2"):
        cli(f"train double {data} --metadata {metadata}")
    line = "run list double --state finished --state failed --kind training --metadata p=1 --json"
    runs = json.loads(cli(f"{line} --created-after 2020-01-01 --created-before 2100-01-01T10:00:00")[1])["runs"]
    assert [run["metadata"] for run in runs] == [{"p": "1"}]
    assert [run["id"] for run in json.loads(cli("run list --limit 1 --oldest-first --json")[1])["runs"]] == ["run-1"]
    assert cli("run list --state paused")[1] == "no runs\n"
    status, _, err = cli("run list --state over")
    assert (status, "state: got 'over', expected one of 'queued'" in err) == (1, True)


@pytest.mark.parametrize(
    ("text", "size"),
    [("7", 7), ("1.5k", 1536), ("2K", 2 << 10), ("3m", 3 << 20), ("4M", 4 << 20), ("0.5G", 1 << 29), ("1T", 1 << 40)],
)
def test_sizes_are_powers_of_1024(cli, server, data, text, size):
    assert cli(f"train double {data} --resources max_memory_bytes={text}")[0] == 0
    assert server.runs["run-1"].spec.budget.memory_bytes == size


def test_files_of_the_server_are_named_by_a_prefix(cli, server):
    line = "train double --x server:a/d.npz:x --y y=server:y.npy --detach"
    status, out, _ = cli(line)
    data = server.runs[out.strip()].spec.data
    assert status == 0
    assert [(array.path, array.key) for array in data] == [("a/d.npz", "x"), ("y.npy", "")]


def test_a_run_that_was_interrupted_is_resumed(cli, server, data):
    server.fail_training("killed", 2, 1, resumable=True)
    status, _, err = cli(f"train double {data} --epochs 2")
    assert status == 1
    assert "layerserve run resume run-1" in err
    assert "interrupted: killed" in cli("run list")[1]
    assert cli("run resume run-1")[::2] == (0, "")
    status, out, err = cli("run watch run-1")
    assert status == 0
    assert "resumed in epoch 2" in err
    assert "published double version 2" in out


def test_a_long_run_is_shown_with_some_of_its_epochs(cli, data):
    _, out, err = cli(f"train double {data} --epochs 60")
    assert err.count("epoch ") == 60
    status, shown, err = cli("run watch run-1")
    assert (status, shown) == (0, out)
    # The table has them: a line for each would take thousands for a long run.
    assert "epoch " not in err
    assert "finished in" in err
    assert "25 of 60 epochs" in shown
    first = [cells[1].strip() for line in shown.splitlines() if len(cells := line.split("│")) > 2]
    epochs = [int(text) for text in first if text.isdigit()]
    assert (len(epochs), epochs[:3], epochs[-1]) == (25, [1, 3, 6], 60)


def test_runs_are_deleted(cli, data):
    cli(f"train double {data}")
    assert cli("run delete run-1")[:2] == (0, "run run-1 is deleted\n")
    assert cli("run list")[1] == "no runs\n"


def test_files_of_runs_are_listed_and_saved(cli, server, data, tmp_path):
    cli(f"train double {data}")
    assert cli("run files run-1")[1] == "no files\n"
    server.runs["run-1"].files = {"log.csv": b"epoch", "logs/events.1": b"12"}
    assert "logs/events.1" in cli("run files run-1")[1]
    assert [file["bytes"] for file in json.loads(cli("run files run-1 --json")[1])["files"]] == [5, 2]
    assert cli("run files run-1 --to saved")[0] == 0
    assert (tmp_path / "saved" / "logs" / "events.1").read_bytes() == b"12"
    assert cli("run files run-1 log.txt --to saved")[0] == 1


def test_evaluate_shows_the_numbers(cli, data):
    status, out, _ = cli(f"evaluate double {data} --loss mse")
    assert status == 0
    assert "loss" in out
    assert json.loads(cli(f"evaluate double {data} --json")[1]) == {"loss": 1.0}


@pytest.mark.parametrize("fill", ["0", "nan", ""])
@pytest.mark.parametrize(
    ("command", "roles"),
    [
        (
            "train --validation-x server:d.csv:a --validation-y server:d.csv:b",
            ["x", "y", "sample_weight", "validation_x", "validation_y"],
        ),
        ("evaluate", ["x", "y", "sample_weight"]),
    ],
)
def test_a_value_in_place_of_missing_ones_is_for_all_arrays(cli, server, command, roles, fill):
    name, _, more = command.partition(" ")
    arrays = "--x server:d.csv:a --y server:d.csv:b --sample-weight server:d.csv:w"
    assert cli(f"{name} double {arrays} {more} {f'--fill {fill}' if fill else ''}")[0] == 0
    spec = server.runs["run-1"].spec
    names = {role: name for name, role in ROLES.items()}
    found = {names[array.role]: array.fill if array.HasField("fill") else "" for array in spec.data}
    assert found == dict.fromkeys(roles, fill)


@pytest.mark.parametrize(
    ("options", "metrics"),
    [
        ("", ""),
        ("--metrics mae", '["mae"]'),
        ("--metrics mae --metrics mse", '["mae", "mse"]'),
        ('--metrics ["mae","mse"]', '["mae", "mse"]'),
        ('--metrics {"y":"mae"}', '{"y": "mae"}'),
    ],
)
def test_metrics_are_names_or_what_json_says(cli, server, data, options, metrics):
    assert cli(f"train double {data} {options} --detach")[0] == 0
    assert server.runs["run-1"].spec.compile.metrics == metrics


def test_the_history_is_plotted(cli, data, tmp_path):
    status, out, _ = cli(f"train double {data} --epochs 4 --plot history.png")
    assert status == 0
    assert "█▃▁▁" in out
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")


def test_runs_are_listed_and_watched(cli, data):
    assert cli("run list")[1] == "no runs\n"
    cli(f"train double {data} --description try")
    status, out, _ = cli("run list")
    assert status == 0
    assert "finished" in out
    assert "try" in out
    run = json.loads(cli("run list double --json")[1])["runs"][0]
    assert run["version"] == 2
    (row,) = [line for line in out.splitlines() if "run-1" in line]
    cells = [cell.strip() for cell in re.split(r"  +|│", row) if cell.strip()]
    assert cells[:6] == ["run-1", "training", "double", "1", "finished", "1/1"]
    assert cells[7] == "2"
    created = datetime.fromisoformat(run["created_time"]).astimezone()
    assert cells[8:] == [created.strftime("%Y-%m-%d %H:%M:%S"), "try"]
    assert "published double version 2" in cli("run watch run-1")[1]


def test_interrupting_leaves_the_run_and_says_how_to_go_on(cli, data, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("layerserve.cli.training.show_run", interrupted)
    status, _, err = cli(f"train double {data}")
    assert status == 130
    assert "layerserve run watch run-1" in err


def test_download_says_where_the_file_is(cli, tmp_path):
    assert cli("download double") == (0, "double-1.keras\n", "")
    assert (tmp_path / "double-1.keras").stat().st_size == 5120
    assert cli("download double --format keras2_h5") == (0, "double-1.h5\n", "")


def test_what_commands_did_is_json_for_programs(cli, data, server):
    assert json.loads(cli("download double --json")[1]) == {"path": "double-1.keras"}
    server.hold_training()
    assert json.loads(cli(f"train double {data} --detach --json")[1]) == {"run": "run-1"}
    assert json.loads(cli("run pause run-1 --json")[1])["id"] == "run-1"
    assert json.loads(cli("run cancel run-1 --json")[1])["id"] == "run-1"
    server.release_training()
    cli("run watch run-1")
    server.runs["run-1"].files = {"log.txt": b"hello"}
    saved = json.loads(cli("run files run-1 --to saved --json")[1])
    assert saved == {"files": [{"name": "log.txt", "path": "saved/log.txt"}]}
    assert json.loads(cli("run delete run-1 --json")[1]) == {"deleted": "run-1"}
    assert json.loads(cli("run list --json")[1]) == {"runs": [], "more": False}
    cli(f"train double {data} --publish no")
    assert json.loads(cli("run publish run-2 --json")[1])["version"] == 2


def test_a_version_that_was_withheld_is_told_of(cli, data, monkeypatch):
    tell = FakeRun.tell

    def withheld(run, **kind):
        if "finished" in kind:
            kind["finished"].ClearField("published")
            kind["finished"].withheld = "its loss didn't improve"
        tell(run, **kind)

    monkeypatch.setattr(FakeRun, "tell", withheld)
    out = cli(f"train double {data}")[1]
    assert "not published: its loss didn't improve\n" in out
    assert "published double" not in out


def test_without_rows_on_a_terminal_predict_says_what_it_takes(cli, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(io, "StringIO", Terminal)
    status, out, err = cli("predict double")
    assert (status, out) == (2, "")
    assert "missing input: pass --input, or JSON on standard input" in err


class Interrupted:
    def find_spec(self, name, *_):
        if name == "layerserve.cli.app":
            raise KeyboardInterrupt


def test_a_command_that_is_interrupted_while_it_is_imported_says_nothing(cli, monkeypatch):
    monkeypatch.delitem(sys.modules, "layerserve.cli.app")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    assert cli("models") == (130, "", "")


def test_an_interrupted_command_says_nothing(cli, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("layerserve.cli.server_commands.connect", interrupted)
    assert cli("models") == (130, "", "")


def test_a_file_that_can_not_be_written_is_named(cli, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "out.json").mkdir()
    status, out, err = cli("predict double -o folder/out.json", "[[1, 2, 3]]")
    assert (status, out) == (1, "")
    assert err == "layerserve: folder/out.json: Is a directory\n"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("predict dooble", "unknown model 'dooble'"),
        ("predict double -i x=nope.npy", "nope.npy: No such file or directory"),
        (
            "predict double -i setup.cfg",
            "got .cfg, expected .npy, .npz, .csv, .tsv, .parquet or .json, an image, or - for standard input",
        ),
        ("predict double --version 3", "has no version 3"),
        ("predict double -o out.csv", "out.csv: got .csv, expected"),
        ("predict double -i bad.npy", "bad.npy: got"),
        ("predict double -i bad.npz", "bad.npz: got"),
        ("predict double -i bad.json", "bad.json: got invalid JSON"),
        ("predict double -i empty.json", "empty.json: got nothing, expected JSON"),
        ("predict double -i d.npz:z", "d.npz: got key 'z', expected one of x, y"),
        ("predict double -i a=d.npz", "pick it by PATH:KEY"),
        ("predict double -i d.npz:x -i d.npz:y", "expected NAME=PATH"),
        ("predict double -i x=d.npz:x -i x=d.npz:y", "several arrays with this name"),
        ("train double --x d.npz:x --y d.npz:y --loss {oops", "--loss: got '{oops', expected JSON"),
        ("train double --x d.npz:x --y d.npz:y --validation-x d.npz:x", "expected both or none"),
        ("train double --x d.npz:x --y d.npz:y --resources max_memory_bytes=3X", "max_memory_bytes: got '3X'"),
        ("train double --x d.npz:x --y d.npz:y --resources workers=x", "workers: got 'x', expected a whole number"),
        (
            "train double --x d.npz:x --y d.npz:y --resources memory=3",
            "--resources: got 'memory', expected max_seconds",
        ),
        ("train double --x d.npz:x --y d.npz:y --resources 3", "--resources: got '3', expected KEY=VALUE, separated"),
        ("train double --x d.npz:x --y d.npz:y --publish best,no", "--publish: got 'no' with best, expected one of"),
        ("train double --x d.npz:x --y d.npz:y --publish last", "--publish: got 'last', expected 'no', 'best', or KEY"),
        ('train double --x d.npz:x --y d.npz:y --split {"use":"a"}', "--split: got use, expected use, shares, seed"),
        ("train double --x d.npz:x --y d.npz:y --plot history.jpg", "expected a name that ends in .png, .svg or .pdf"),
        ("run resume run-9", "unknown run 'run-9'"),
        ("shapes shared nope", "unknown layer 'nope'"),
        ("run watch run-9", "unknown run 'run-9'"),
        ("models --address http://x", "expected host:port"),
    ],
)
def test_an_error_is_one_line_and_status_1(cli, data, tmp_path, line, text):
    for name in ("bad.npy", "bad.npz", "bad.json"):
        (tmp_path / name).write_text("rubbish")
    (tmp_path / "empty.json").touch()
    status, out, err = cli(line, "[[1, 2, 3]]")
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("layerserve: ")
    assert text in err


@pytest.mark.parametrize("line", ["nope", "predict", "train double", "models --nope"])
def test_a_wrong_command_line_is_status_2(cli, line):
    status, _, err = cli(line)
    assert status == 2
    assert "Error" in err


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("models --timeout 3", "--timeout precedes the command's name: layerserve --timeout ... models"),
        ("predict double --token secret", "--token precedes the command's name: layerserve --token ... predict"),
        ("run list --tls", "--tls precedes the command's name: layerserve --tls ... run"),
        ("--address localhost:1 models", "--address follows the command's name: layerserve COMMAND --address ..."),
        ("-a localhost:1 models", "-a follows the command's name: layerserve COMMAND -a ..."),
        ("models --nope", "--nope"),
        ("--nope models", "--nope"),
        ("wait --timeout", "--timeout"),
    ],
)
def test_an_option_on_the_wrong_side_of_the_command_is_refused_with_its_place(cli, line, shown):
    status, _, err = cli(line)
    assert status == 2
    assert shown in err
    assert ("precedes" in err) == ("precedes" in shown)
    assert ("follows" in err) == ("follows" in shown)
    assert "secret" not in err


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("predict double rows.npy", "data is given by --input FILE"),
        ("train double rows.csv", "data is given by --x FILE and --y FILE, or --data FILE"),
        ("evaluate double x.npy y.npy", "data is given by --x FILE and --y FILE, or --data FILE"),
        ("unpin double rows.npy", ""),
        ("predict double single", ""),
    ],
)
def test_a_data_file_without_its_option_is_refused_with_the_option(cli, line, shown):
    status, _, err = cli(line)
    assert status == 2
    assert "unexpected extra argument" in err
    assert shown in err
    assert ("data is given" in err) == bool(shown)


def test_grpc_writes_no_lines_of_its_own_before_an_error(server):
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    done = subprocess.run(
        [sys.executable, "-m", "layerserve", "--tls", "models", "--address", server.address],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    reason = "the server has no TLS, expected tls=False, or no --tls"
    said = f"layerserve: server {server.address}: can't connect to {server.address}: {reason}\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("pin double v2", "'v2'"),
        ("--timeout soon models", "'soon'"),
        (
            "train double --x x.npy --y y.npy --learning-rate 0.1",
            "learning rate is part of the optimizer: --optim",
        ),
        ("train double --x x.npy --y y.npy --epochs 0", "0"),
        (
            "label double 2 stable",
            "got 'stable', expected a number; the label precedes it: layerserve label double stable 2",
        ),
        ("label double stable v2", "got 'v2', expected a number"),
        (
            "upload double model.keras",
            "no such file; the file precedes the model: layerserve upload model.keras double",
        ),
    ],
)
def test_a_wrong_argument_is_shown_with_what_is_expected(cli, server, tmp_path, line, shown):
    (tmp_path / "model.keras").touch()
    status, _, err = cli(line)
    assert (status, server.calls) == (2, [])
    assert shown in err


def test_help_has_no_type_of_python(cli):
    """An option without a metavar is shown with its type, such as <int range>."""
    shown = []
    groups = [("", typer.main.get_command(application(extensions.names())))]
    for line, command in groups:
        if hasattr(command, "commands"):
            groups += [
                (f"{line} {name}", one) for name, one in command.commands.items() if name not in extensions.names()
            ]
        else:
            shown += [line.strip()]
            assert re.findall(r"-\S+ <[a-z]+.*", cli(f"{line} --help")[1]) == []
    assert {"train", "run update"} <= {*shown}


def test_help_lists_every_command_once_in_the_panel_of_what_it_is_for(cli):
    status, out, _ = cli("--help")
    assert status == 0
    panels = dict(re.findall(r"^(\w[\w ]*):\n((?:  .*\n)+)", out, re.MULTILINE))
    assert list(panels) == ["Serve", "Predict", "Versions", "Train", "Watch", "Options"]
    assert "..." not in out.partition("Options:")[0].partition("\n")[2]
    shown = {title: re.findall(r"^  (\w+)", rows, re.MULTILINE) for title, rows in panels.items()}
    assert {"serve", "inspect", "convert", "token", "zoo"} == {*shown["Serve"]}
    groups = {name for added in slice_commands() for name in added.groups}
    assert {"train", "evaluate", "run"} | groups == {*shown["Train"]}
    names = [name for title in panels for name in shown[title]]
    assert sorted(names) == sorted(typer.main.get_command(application(extensions.names())).commands)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("pause run-1", "No such command 'pause'; did you mean layerserve run pause?"),
        ("files run-1", "No such command 'files'; did you mean layerserve run files?"),
    ],
)
def test_a_command_without_its_group_is_refused_with_the_group(cli, line, hint):
    status, out, err = cli(line)
    assert (status, out) == (2, "")
    assert hint in err


def test_commands_of_other_packages_are_in_a_panel_of_their_own(cli, monkeypatch):
    names = extensions.names()
    monkeypatch.setattr(extensions, "names", lambda: (*names, "theirs"))
    assert re.search(r"^Of other packages:\n  theirs", cli("--help")[1], re.MULTILINE)


def test_brackets_in_names_are_no_markup(cli, server):
    server.add_model("m[red]", lambda a: {}, [], [], state="failed", reason="layer [bold] is unsupported")
    out = cli("models")[1]
    assert "m[red]" in out
    assert "layer [bold] is unsupported" in out


def test_a_reader_that_leaves_is_no_error(monkeypatch, tmp_path):
    """As `head` does. typer sees to it for the client's commands."""

    def left(*_):
        raise BrokenPipeError

    monkeypatch.setattr(extensions, "run", left)
    with (tmp_path / "out").open("w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert main(["serve"]) == 0
        output.write("flushed at the exit")
    assert (tmp_path / "out").read_text() == ""


def test_a_module_of_ours_that_is_missing_is_no_missing_package(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "layerserve.cli.app", None)
    with pytest.raises(ModuleNotFoundError):
        cli("models")
