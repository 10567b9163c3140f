from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
from layerserve.cli import extensions, main


@pytest.fixture
def commands(monkeypatch):
    """Puts commands in place of those that are installed: {name: "module:attribute"}."""

    def install(found):
        points = [EntryPoint(name, value, extensions.GROUP) for name, value in found.items()]
        monkeypatch.setattr(
            extensions,
            "entry_points",
            lambda group, name=None: [point for point in points if name in (None, point.name)],
        )

    return install


def test_a_command_gets_the_arguments_after_its_name(commands, monkeypatch):
    calls = []
    monkeypatch.setattr(extensions, "hello", lambda argv: calls.append(argv) or 7, raising=False)
    commands({"hello": "layerserve.cli.extensions:hello"})
    assert main(["hello", "--help", "-x", "1"]) == 7
    assert calls == [["--help", "-x", "1"]]


def test_a_command_that_returns_nothing_is_status_0(commands, monkeypatch):
    monkeypatch.setattr(extensions, "quiet", lambda argv: None, raising=False)
    commands({"quiet": "layerserve.cli.extensions:quiet"})
    assert main(["quiet"]) == 0


def test_options_before_the_name_lead_to_it_too(commands, monkeypatch):
    calls = []
    monkeypatch.setattr(extensions, "hello", lambda argv: calls.append(argv) or 3, raising=False)
    commands({"hello": "layerserve.cli.extensions:hello"})
    assert main(["--timeout", "5", "hello", "--port", "1"]) == 3
    assert calls == [["--port", "1"]]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Modules that lack something when they are imported, or when their command is called."""
    (tmp_path / "layerserve_server_lacking.py").write_text("import torch_that_is_not_there.nn")
    (tmp_path / "layerserve_server_lazy.py").write_text("def serve(argv):\n    import torch_that_is_not_there")
    (tmp_path / "foreign_lacking.py").write_text("import torch_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (
            "layerserve_server_lacking:serve",
            "requires torch_that_is_not_there: pip install '.[server]' in the folder of the repository",
        ),
        ("layerserve_server_lazy:serve", "pip install '.[server]'"),
        ("foreign_lacking:serve", "its package can't be imported: No module named 'torch_that_is_not_there'"),
        ("layerserve_server.no_such_module:serve", "its package can't be imported"),
    ],
)
def test_what_a_command_lacks_is_said_in_one_line(commands, packages, capsys, module, text):
    commands({"serve": module})
    assert main(["serve", "models"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("layerserve serve: ")
    assert text in err
    assert len(err.splitlines()) == 1


def test_without_typer_the_command_line_says_what_to_install():
    program = "import sys; sys.modules['typer'] = None\nfrom layerserve.cli import main; sys.exit(main(['models']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "layerserve: the command line requires typer: pip install typer rich\n"


def test_the_commands_of_the_other_packages_are_found():
    assert {"serve", "inspect", "convert", "token", "zoo"} <= set(extensions.names())


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_had_enough_gets_no_traceback(unbuffered: str) -> None:
    code = "import sys; from layerserve.cli import main; sys.exit(main(['--version']))"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    "arguments", [[name, "--help"] for name in extensions.names()] + [["serve", "--prt", "1"]], ids=" ".join
)
def test_help_and_wrong_arguments_need_no_torch(arguments):
    """Importing it takes a second or two."""
    program = (
        "import sys; from layerserve.cli import main\n"
        f"try: main({arguments})\nexcept SystemExit: pass\nfinally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert arguments[0] in done.stdout + done.stderr
