"""What a command line names, and each of its options, arrives in the requests to the server."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
import typer
from layerserve import TensorSpec
from layerserve.calls import methods
from layerserve.cli import extensions
from layerserve.cli.app import application
from layerserve.training.options.arguments import TRAIN

#: Command -> its arguments.
LINES = {
    **dict.fromkeys(("wait", "download"), "double"),
    **dict.fromkeys(("shapes", "codegen", "graph"), "late"),
    **dict.fromkeys(("predict", "explain"), "late -i d.npz"),
    "upload": "m.keras new",
    "push": "double hf://me/my.double",
    "remove": "double 1",
    **dict.fromkeys(("train", "evaluate"), "late --x d.npz --y y.npy"),
    **dict.fromkeys(("run plot", "run publish"), "run-1"),
    "run list": "",
    "run update": "run-1 --description why",
    "dataset upload": "--x x.npy",
    **dict.fromkeys(("checkpoint download", "checkpoint publish"), "run-1/last"),
    "checkpoint predict": "run-1/last -i x.npy",
    "sweep start": "late --x x=server:x.npy --y y=server:y.npy --try seed=1,2 --detach",
}
#: Option, or else its metavar -> value.
VALUES = {
    **{"version": "1", "label": "stable", "outputs": "y", "state": "failed", "method": "grid", "batch_size": "2"},
    **{"validation_x": "FILE --validation-y FILE", "validation_y": "FILE --validation-x FILE"},
    **{"format": "keras2", "losses": "losses.npz", "kind": "evaluation"},
    **{None: "", "N": "7", "COUNT": "7", "TEXT": "some", "KEY": "some", "KEY=VALUE": "some=7", "LOG": "loss"},
    **{"INDEX[,INDEX]": "2", "NAME": "y"},
    **{
        "TIME": "2026-01-01",
        "PATH": "y.npy",
        "[NAME=]PATH": "y.npy",
        "[NAME=]server:PATH": "server:w.npy",
    },
}
#: Options that change no request, since they are about files and output; and those that exclude an argument above.
OTHERS = {
    *("help", "address", "as_json", "output", "detach", "plot", "to", "fill", "data", "wait timeout"),
    *("graph rankdir", "graph limit", "graph plugins", "codegen class_name", "codegen check", "remove everything"),
    # Of a folder of images, which has a test beside the other commands for datasets.
    *("dataset upload image_size", "dataset upload label_mode"),
    *("label remove", "canary of_settings", "train validation_data", "run plot by", "predict timing"),
}


def commands():
    """The commands with the options that are asked for. Those of training have a test beside their table."""
    groups = [("", typer.main.get_command(application(extensions.names())))]
    for line, command in groups:
        if hasattr(command, "commands"):
            groups += [(f"{line} {name}".strip(), one) for name, one in command.commands.items()]
        # `score` reads files, of a model on disk as well: see test_score_command.
        elif line not in {*extensions.names(), "top", "score"}:
            others = {option.name for option in TRAIN} if line in ("train", "evaluate", "sweep start") else set()
            options = [
                option
                for option in command.params
                if option.param_type_name == "option"
                and not {option.name, f"{line} {option.name}"} & (OTHERS | others)
                and not {*option.opts} & {*LINES.get(line, "").split()}
            ]
            if options:
                yield pytest.param(line, options, id=line)


@pytest.fixture
def asked(cli, server, answer, tmp_path, monkeypatch):
    """Runs a command line: gives the requests that the server gets."""

    def keep(method):
        def function(request, context):
            server.calls.append((method.name, request))
            return iter(()) if method.streams_replies else method.reply()

        answer(method, function)

    for method in methods.METHODS.values():
        if method.service in (methods.METHODS["CreateSweep"].service, methods.METHODS["ListCheckpoints"].service):
            keep(method)
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=1))  # the idempotency key of a run
    monkeypatch.setenv("LAYERSERVE_ADDRESS", "127.0.0.1:1")
    for name in ("x", "y"):
        np.save(tmp_path / f"{name}.npy", np.ones((4, 3)))
    np.savez(tmp_path / "d.npz", x=np.ones((4, 3)), y=np.ones((4, 3)))
    (tmp_path / "m.keras").write_bytes(b"model")

    def run(line):
        server.calls.clear()
        assert cli(f"{line} --address {server.address}")[0] != 2, line
        return list(server.calls)

    # The inputs of a version that isn't loaded are asked for.
    ends = [TensorSpec(name, (None, 3), "float32") for name in ("x", "y")]
    server.add_model("late", lambda a: {"y": a["x"]}, ends[:1], ends[1:], labels=["stable"], state="available")
    run("train double --x x.npy --y y.npy --publish no")
    return run


@pytest.mark.parametrize(("line", "options"), [*commands()])
def test_options_are_asked_for(asked, line, options):
    without = asked(f"{line} {LINES[line]}")
    # Models, runs, checkpoints and versions: what is neither an option nor a file.
    names = [word for word in LINES[line].split() if not word.startswith("-") and "." not in word and "=" not in word]
    assert {*"/".join(names).split("/")} - {""} <= {text for _, text in held(without[-1][1])}
    for option in options:
        value = VALUES[option.name if option.name in VALUES else option.metavar]
        value = value.replace("FILE", VALUES["[NAME=]server:PATH" if line == "sweep start" else "[NAME=]PATH"])
        given = asked(f"{line} {LINES[line]} {option.opts[0]} {value}")
        assert len(given) >= len(without) > 0, option.name
        assert given != without, option.name
        for method, message in given:
            if option.metavar in ("N", "TEXT") and option.name in fields(message.DESCRIPTOR):
                # A label stands for a version, by whose number further calls ask.
                expected = {(option.name, value)} | ({("version", "1")} if option.name == "label" else set())
                assert expected & {*held(message)}, (option.name, method)


def fields(kind):
    """Names of the fields of a type of messages, those of messages in it included."""
    inner = [fields(field.message_type) for field in kind.fields if field.message_type]
    return {field.name for field in kind.fields}.union(*inner)


def held(message):
    """The names and texts of the values in a message, and in those in it."""
    for field, value in message.ListFields():
        for one in value if field.is_repeated else [value]:
            if hasattr(one, "ListFields"):
                yield from held(one)
            else:
                yield field.name, str(one)
