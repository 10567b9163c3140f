"""An extension of another package, as docs/extensions.md has it, installed beside a server."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from doc_blocks import ROOT, blocks_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "layerserve", *arguments]
    ended = subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "120"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder on the path with the package of the page, as pip would install it."""
    module, project = (block.text for block in blocks_of(ROOT / "docs" / "extensions.md"))
    assert len(module.splitlines()) <= 60
    (tmp_path / "server_notice.py").write_text(module)
    described = tomllib.loads(project)["project"]
    metadata = tmp_path / f"server_notice-{described['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {described['name']}\nVersion: 1.0\n")
    points = configparser.ConfigParser()
    points.read_dict(described["entry-points"])
    with (metadata / "entry_points.txt").open("w") as file:
        points.write(file)
    (tmp_path / "models").mkdir()
    return tmp_path


def test_an_extension_adds_a_method_a_setting_a_metric_and_a_command(folder: Path) -> None:
    assert "Notices:\n  --notice" in run(folder, "serve", "--help-all").replace("\n\n", "\n")
    command = [sys.executable, "-m", "layerserve", "serve", str(folder / "models"), "--notice", "Closed from 6 pm"]
    command += ["--grpc-port", "0", "--metrics-port", "0", "--log-format", "json", "--drain-seconds", "0"]
    command += ["--no-warm-training"]
    server = subprocess.Popen(command, env=environment(folder), stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        lines = (json.loads(line) for line in server.stderr if line.startswith("{"))
        ports = next(line for line in lines if line["message"] == "serving")
        assert run(folder, "notice", "--address", f"127.0.0.1:{ports['grpc_port']}") == "Closed from 6 pm\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{ports['metrics_port']}/metrics", timeout=30) as page:
            assert "notices_read_total 1.0" in page.read().decode()
    finally:
        server.kill()
        server.communicate()
