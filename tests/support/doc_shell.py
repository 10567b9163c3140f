"""The shell lines of documentation: `layerserve` runs in this process, other programs in processes of their own."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

import pytest
from doc_blocks import ROOT
from layerserve.cli import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Separators that the shell below has.
AND, PIPE = "&&", "|"
VARIABLE = re.compile(r"[A-Z_]+=")
#: What addresses of registries of others begin with.
REGISTRIES = ("models:/", "runs:/", "hf://")


class Shell:
    """Runs lines. `moved` puts the addresses of the running server in place of those in the docs."""

    def __init__(self, moved: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
        self._moved = moved
        self._capsys = capsys

    def run(self, text: str) -> str:
        """Runs lines. Returns what the last command printed. AssertionError if a command fails, or isn't known."""
        shown = ""
        for words in lines_of(text):
            for command in split(words, AND):
                shown = ""
                for part in split(command, PIPE):
                    shown = self._run(part, shown)
        return shown

    def _run(self, words: Sequence[str], stdin: str) -> str:
        variables = [word.partition("=")[0] for word in takewhile(VARIABLE.match, words)]
        program, *arguments = words[len(variables) :]
        if program in CHECKED:
            CHECKED[program](arguments, variables)
            return ""
        if program == "layerserve" and any(word.startswith(REGISTRIES) for word in arguments):
            # Needs a server of MLflow, or the hub.
            return self._layerserve([arguments[0], "--help"], stdin)
        assert not variables, words
        if program == "mkdir":
            Path(arguments[-1]).mkdir(exist_ok=True)
            return ""
        if program == "layerserve":
            # The tests have one server.
            checked = ["--check-config"] if arguments[0] == "serve" else []
            return self._layerserve([*arguments, *checked], stdin)
        if program == "python":
            command = [sys.executable, *(str(ROOT / word) if (ROOT / word).is_file() else word for word in arguments)]
        elif program == "curl":
            if not shutil.which("curl"):
                pytest.skip("needs curl")
            command = ["curl", "--silent", "--show-error", "--fail", *arguments]
        else:
            raise AssertionError(f"{shlex.join(words)}: neither run nor in CHECKED")
        made = subprocess.run(
            [self._moved(word) for word in command], input=stdin, capture_output=True, text=True, timeout=60
        )
        assert made.returncode == 0, f"{shlex.join(words)}: {made.stderr}"
        return made.stdout

    def _layerserve(self, arguments: Sequence[str], stdin: str) -> str:
        self._capsys.readouterr()
        before, sys.stdin = sys.stdin, io.StringIO(stdin)
        try:
            status = main([self._moved(word) for word in arguments])
        except SystemExit as error:  # argparse
            status = error.code
        finally:
            sys.stdin = before
        shown = self._capsys.readouterr()
        assert status == 0, f"layerserve {shlex.join(arguments)}: status {status}: {shown.err}"
        return shown.out


def lines_of(text: str) -> list[list[str]]:
    """The words of each line."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        reader = shlex.shlex(line, posix=True, punctuation_chars="&|<>;()")
        reader.whitespace_split = True
        words = list(reader)
        if words:
            found.append(words)
        wrong = {word for word in words if set(word) <= set("&|<>;()")} - {AND, PIPE}
        assert not wrong, f"{line}: {wrong} isn't known to the tests of the docs"
    return found


def split(words: Sequence[str], separator: str) -> list[list[str]]:
    """The words between separators."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == separator:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def check_syntax(text: str) -> None:
    """AssertionError if bash can't parse the lines."""
    made = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr


def check_pip(arguments: Sequence[str], variables: Sequence[str]) -> None:
    """The extras exist."""
    assert arguments[0] == "install"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for word in arguments[1:]:
        # The name on the package index isn't this project's.
        assert not word.startswith("layerserve"), f"{word}: got a name of the index, expected '.'"
        if match := re.fullmatch(r"\.(?:\[(.*)\])?", word):
            assert set((match[1] or "server").split(",")) <= set(project["optional-dependencies"]), word


def check_make(arguments: Sequence[str], variables: Sequence[str]) -> None:
    """The target exists."""
    # Without the flags of a `make` that runs the tests: one with -s would say nothing.
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    command = ["make", "--dry-run", *arguments]
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    # For the name of a folder there is nothing to be done.
    wrong = made.returncode or "Nothing to be done" in made.stdout
    assert not wrong, f"make {shlex.join(arguments)}: {made.stdout}{made.stderr}"


def check_kubectl(arguments: Sequence[str], variables: Sequence[str]) -> None:
    """The folder is one of kustomize, a Secret one that a manifest names, and pods are those of the base."""
    if arguments[:3] == ["create", "secret", "generic"]:
        assert any(arguments[3] in path.read_text("utf-8") for path in (ROOT / "deploy" / "kubernetes").rglob("*.yaml"))
        return
    if arguments[0] in ("cp", "exec", "port-forward"):
        deployment = (ROOT / "deploy" / "kubernetes" / "base" / "deployment.yaml").read_text("utf-8")
        named = {
            "cp": "POD:/models/mnist.keras",
            "exec": "deployment/layerserve",
            "port-forward": "deployment/layerserve",
        }
        assert named[arguments[0]] in arguments, arguments
        assert {"mountPath: /models", "name: layerserve", "containerPort: 8500"} <= {*re.split(r"\n[ -]*", deployment)}
        return
    folder = ROOT / arguments[arguments.index("-k") + 1]
    assert (folder / "kustomization.yaml").is_file(), folder


def check_helm(arguments: Sequence[str], variables: Sequence[str]) -> None:
    """The chart exists, with the values that are set and the files of values."""
    chart = ROOT / arguments[2]
    known = (chart / "values.schema.json").read_text("utf-8")
    for flag, value in zip(arguments[3::2], arguments[4::2], strict=True):
        if flag == "--values":
            assert (ROOT / value).is_file(), value
        else:
            assert flag == "--set", flag
            assert all(f'"{name}"' in known for name in value.partition("=")[0].split(".")), value


def check_promtool(arguments: Sequence[str], variables: Sequence[str]) -> None:
    """The file exists."""
    assert (ROOT / arguments[-1]).is_file(), arguments[-1]


def check_haproxy(arguments: Sequence[str], variables: Sequence[str]) -> None:
    """The file exists, with the variables that the line sets."""
    text = (ROOT / arguments[arguments.index("-f") + 1]).read_text("utf-8")
    assert all(name in text for name in variables)


def check_mlflow(arguments: Sequence[str], variables: Sequence[str]) -> None:
    """The target is the plugin's."""
    (target,) = [arguments[at + 1] for at, word in enumerate(arguments) if word in ("-t", "--target")]
    assert arguments[0] == "deployments"
    assert target.partition(":")[0] == "layerserve", target


def check_folder(arguments: Sequence[str], variables: Sequence[str]) -> None:
    """The folder exists."""
    assert (ROOT / arguments[0]).is_dir(), arguments[0]


def check_language(arguments: Sequence[str], variables: Sequence[str]) -> None:
    """Files of a folder of `examples` that the line names exist, but for those that are made."""
    for word in arguments:
        if "/" in word and not word.startswith(("/", "gen/", "out")):
            assert any((folder / word).exists() for folder in (ROOT / "examples").iterdir()), word


#: Commands that aren't run, with why; what of them can be checked is.
CHECKED: Mapping[str, Callable[[Sequence[str], Sequence[str]], None]] = {
    "pip": check_pip,  # needs a package registry
    "make": check_make,  # builds an environment, or an image
    "kubectl": check_kubectl,  # needs a cluster; tests/deploy checks the manifests
    "helm": check_helm,  # needs a cluster, too
    "mlflow": check_mlflow,  # needs MLflow; `make -C lab mlflow` runs it
    "promtool": check_promtool,  # runs in tests/deploy/test_monitoring.py
    "haproxy": check_haproxy,  # runs in tests/deploy/test_proxy.py
    # `make -C lab languages` runs these: compilers and packages of other languages
    "cd": check_folder,
    **dict.fromkeys(("buf", "go", "javac", "java", "npm", "npx", "node"), check_language),
}
