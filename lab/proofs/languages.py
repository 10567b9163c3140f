"""Runs the programs of docs/start/languages.md against a server, by the page's own commands: `make -C lab languages`.

A program is left out, with the reason, where its compiler or generator isn't installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from doc_blocks import ROOT, blocks_of
from layerserve import Client
from layerserve.cli import main as layerserve
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings

PAGE = ROOT / "docs" / "start" / "languages.md"
#: Folder of `examples` -> programs that its commands run.
NEEDED = {
    "go": ("buf", "go", "protoc-gen-go", "protoc-gen-go-grpc"),
    "java": ("buf", "javac", "java", "protoc", "grpc_java_plugin"),
    "typescript": ("buf", "npm", "node"),
}
#: Debian's packages of Go libraries, which Go finds outside of modules only.
DEBIAN_GO = Path("/usr/share/gocode")
NUMBER = re.compile(r"\d\.\d+(?:e-?\d+)?")


def main(languages: Sequence[str]) -> int:
    failed = 0
    with tempfile.TemporaryDirectory(prefix="languages-") as made:
        folder = Path(made)
        shutil.copytree(ROOT / "proto", folder / "proto")
        kept = shutil.ignore_patterns("gen", "out", "node_modules")
        shutil.copytree(ROOT / "examples", folder / "examples", ignore=kept)
        models = folder / "models"
        assert layerserve(["zoo", "build", "dense", "--small", "--to", str(models)]) == 0
        settings = Settings(path=models, host="127.0.0.1", grpc_port=0, metrics_port=-1, drain_seconds=0)
        with App(settings) as app, Client(f"127.0.0.1:{app.grpc_port}") as client:
            client.wait_until_ready(timeout=60, model="dense")
            expected = client.predict("dense", np.full((1, 64), 0.5, "float32"))[0]
            for language in languages or NEEDED:
                problem = run(language, folder, f"127.0.0.1:{app.grpc_port}", expected)
                print(f"{language}: {problem or 'equal to the Python client'}", flush=True)
                failed += bool(problem) and not problem.startswith("not run")
    return 1 if failed else 0


def run(language: str, folder: Path, address: str, expected: np.ndarray) -> str:
    """Runs the commands of a language. Returns what is wrong, or ""."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if absent := [name for name in NEEDED[language] if shutil.which(name, path=path) is None]:
        return f"not run, {', '.join(absent)} isn't installed"
    commands, variables = commands_of(language), {"PATH": path}
    if language == "go" and DEBIAN_GO.is_dir():
        commands = commands.replace("go mod tidy\n", "")
        variables |= outside_of_modules(folder)
    printed = subprocess.run(
        ["bash", "-e", "-c", commands.replace("localhost:8500", address)],
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        text=True,
        timeout=900,
    )
    if printed.returncode:
        return f"status {printed.returncode}"
    numbers = [float(number) for number in NUMBER.findall(printed.stdout.splitlines()[-1])]
    if len(numbers) != len(expected) or not np.allclose(numbers, expected, atol=1e-6):
        return f"got {numbers}, expected {expected.tolist()}"
    return ""


def commands_of(language: str) -> str:
    """The block of commands that enters the language's folder."""
    [found] = [block.text for block in blocks_of(PAGE) if block.text.startswith(f"cd examples/{language}\n")]
    return found


def outside_of_modules(folder: Path) -> Mapping[str, str]:
    """Variables with which Go finds Debian's packages, and the program under its own name."""
    name = re.search(r"^module (\S+)$", (folder / "examples/go/go.mod").read_text("utf-8"), re.MULTILINE)
    assert name is not None
    place = folder / "gopath" / "src" / name[1]
    place.parent.mkdir(parents=True)
    place.symlink_to(folder / "examples" / "go")
    return {"GO111MODULE": "off", "GOPATH": f"{folder / 'gopath'}:{DEBIAN_GO}"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
