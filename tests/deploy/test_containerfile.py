"""The image's recipe: it fits the distribution, the settings and the manifests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from layerserve_server.app import App
from layerserve_server.commands.settings_reader import SettingsError, read_settings
from layerserve_server.extensions.installed import Settings
from manifests import BASE, read_env

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy" / "Containerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

#: Variables of the pods for what the image's command says in flags.
IN_IMAGE = ("LAYERSERVE_PATH", "LAYERSERVE_ALLOW_ANONYMOUS")

Instructions = list[tuple[str, str]]


@pytest.fixture(scope="module")
def stages() -> list[Instructions]:
    """The instructions of each stage."""
    joined = re.sub(r"\\\n\s*", " ", "\n".join(line for line in TEXT.splitlines() if not line.startswith("#")))
    found: list[Instructions] = [[]]
    for line in filter(None, joined.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest))
    return found[1:]


def of(stage: Instructions, word: str) -> list[str]:
    return [rest for found, rest in stage if found == word]


def test_the_build_copies_what_the_distribution_is_made_of(stages: list[Instructions]) -> None:
    copied = [source for rest in of(stages[0], "COPY") for source in rest.split()[:-1]]
    assert all((ROOT / source).exists() for source in copied)
    for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert any(Path(package).is_relative_to(source) for source in copied), f"{package} isn't copied"
    assert {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"], "pyproject.toml"} <= set(copied)


def test_it_installs_extras_that_exist(stages: list[Instructions]) -> None:
    assert '.whl)[${EXTRAS}]"' in " ".join(of(stages[0], "RUN"))
    (extras,) = re.findall(r"^EXTRAS=([a-z,]+)$", "\n".join(of(stages[0], "ARG")), re.MULTILINE)
    assert set(extras.split(",")) == {"server", "cli"} <= set(PROJECT["project"]["optional-dependencies"])


def test_no_index_is_written_into_it() -> None:
    assert re.findall(r"\w+://[\w.:]*", TEXT) == ["http://127.0.0.1:"]  # of the health check


def test_it_runs_as_the_user_of_the_manifests(stages: list[Instructions], pod: dict[str, Any]) -> None:
    context = pod["securityContext"]
    assert of(stages[-1], "USER") == [f"{context['runAsUser']}:{context['runAsGroup']}"]


def test_it_serves_on_the_ports_it_exposes(
    stages: list[Instructions], container: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    final = stages[-1]
    assert json.loads(of(final, "ENTRYPOINT")[0]) == [next(iter(PROJECT["project"]["scripts"]))]
    command, *arguments = json.loads(of(final, "CMD")[0])
    settings: Settings = read_settings(arguments)
    assert command == "serve"
    assert of(final, "EXPOSE") == [f"{settings.grpc_port} {settings.metrics_port}"]
    assert of(final, "VOLUME") == [str(settings.path)]
    assert container["args"] == [command]
    in_pods = {name: value for name, value in read_env(BASE / "settings.env").items() if name in IN_IMAGE}
    monkeypatch.delenv("LAYERSERVE_HOST", raising=False)
    for name, value in in_pods.items():
        monkeypatch.setenv(name, value)
    assert (read_settings([]).path, read_settings([]).anonymous_rights) == (settings.path, settings.anonymous_rights)


def test_it_is_reached_from_outside_and_gives_strangers_no_right_to_train(
    stages: list[Instructions], monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = dict(pair.split("=", 1) for rest in of(stages[-1], "ENV") for pair in rest.split())
    monkeypatch.setenv("LAYERSERVE_HOST", variables["LAYERSERVE_HOST"])
    _, *arguments = json.loads(of(stages[-1], "CMD")[0])
    settings = read_settings(arguments)
    assert settings.host == "0.0.0.0"
    assert settings.anonymous_rights == {"predict", "read"}
    with pytest.raises(SettingsError, match="where others reach the server"):
        read_settings(arguments[:1])


def test_its_tag_in_the_manifests_is_the_version() -> None:
    kustomization = yaml.safe_load((ROOT / "deploy/kubernetes/base/kustomization.yaml").read_text())
    assert [image["newTag"] for image in kustomization["images"]] == [PROJECT["project"]["version"]]


@pytest.mark.parametrize(("found", "variant"), [("cpu", "cpu"), ("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")])
def test_the_build_stops_if_torch_is_of_the_other_variant(
    stages: list[Instructions], tmp_path: Path, found: str, variant: str
) -> None:
    (command,) = [rest for rest in of(stages[0], "RUN") if "torch>=" in rest]
    for program, prints in (("pip", ""), ("python", f"echo {found}")):
        (tmp_path / program).write_text(f"#!/bin/sh\n{prints}\n")
        (tmp_path / program).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "VARIANT": variant}
    made = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True)
    assert made.returncode == (found != variant)
    if found != variant:
        assert made.stderr == f"torch is for {found}, expected {variant}: set TORCH_INDEX_URL\n"


def test_its_health_check_asks_the_server(stages: list[Instructions], tmp_path: Path) -> None:
    (check,) = of(stages[-1], "HEALTHCHECK")
    program, *arguments = json.loads(check[check.index("[") :])
    assert program == "python"
    settings = Settings(path=tmp_path, host="127.0.0.1", grpc_port=0, metrics_port=0)
    with App(settings) as app:
        environment = {**os.environ, "LAYERSERVE_METRICS_PORT": str(app.metrics_port)}
        ask = [sys.executable, *arguments]
        assert subprocess.run(ask, env=environment, capture_output=True).returncode == 0
        app.drain()
        assert subprocess.run(ask, env=environment, capture_output=True).returncode == 1


def test_the_context_holds_what_the_build_copies(stages: list[Instructions]) -> None:
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    assert kept == {source for rest in of(stages[0], "COPY") for source in rest.split()[:-1]}
