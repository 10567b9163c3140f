"""The image's recipe: it fits the distribution, the settings and the manifests."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from layerserve_server.settings import Settings, SettingsError, read_settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy" / "Containerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

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
    assert set(extras.split(",")) == {"server", "cli", "fast"} <= set(PROJECT["project"]["optional-dependencies"])
    assert any("import torch; assert torch.version.cuda is None" in rest for rest in of(stages[0], "RUN"))


def test_no_index_is_written_into_it() -> None:
    assert "://" not in TEXT


def test_it_runs_as_the_user_of_the_manifests(stages: list[Instructions], pod: dict[str, Any]) -> None:
    context = pod["securityContext"]
    assert of(stages[-1], "USER") == [f"{context['runAsUser']}:{context['runAsGroup']}"]


def test_it_serves_on_the_ports_it_exposes(stages: list[Instructions], container: dict[str, Any]) -> None:
    final = stages[-1]
    assert json.loads(of(final, "ENTRYPOINT")[0]) == [next(iter(PROJECT["project"]["scripts"]))]
    command, *arguments = json.loads(of(final, "CMD")[0])
    settings: Settings = read_settings(arguments)
    assert command == "serve"
    assert of(final, "EXPOSE") == [f"{settings.grpc_port} {settings.metrics_port}"]
    assert of(final, "VOLUME") == [str(settings.path)]
    assert container["args"] == [command, *arguments]


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
