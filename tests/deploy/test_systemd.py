"""The unit of systemd: what it starts is valid, and it waits for the drain."""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from layerserve_server.commands.settings_reader import read_settings
from layerserve_server.extensions.installed import Settings

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "layerserve.service"


@pytest.fixture(name="service")
def _service() -> configparser.SectionProxy:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(UNIT.read_text("utf-8"))
    return unit["Service"]


def test_the_command_serves_the_folder_that_the_unit_makes(service: configparser.SectionProxy) -> None:
    program, command, *arguments = shlex.split(service["ExecStart"])
    assert (Path(program).name, command) == ("layerserve", "serve")
    path = Path(read_settings(arguments).path)
    assert str(path.relative_to("/var/lib")) in service["StateDirectory"].split()


def test_a_stop_has_the_time_to_drain(service: configparser.SectionProxy) -> None:
    settings = Settings()
    assert int(service["TimeoutStopSec"]) >= settings.longest_drain_seconds + settings.grace_seconds + 10


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd isn't installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    # The program and the user are those of the machine that serves; the checked one's path needs no quotes.
    lines = [line for line in UNIT.read_text("utf-8").splitlines() if not line.startswith("User=")]
    unit.write_text("\n".join(lines).replace("/opt/layerserve/bin/layerserve", shutil.which("true") or ""), "utf-8")
    # As a user's: for a unit of the system it makes a folder below /run, which only root may.
    command = ["systemd-analyze", "verify", "--user", "--man=no", str(unit)]
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    checked = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (checked.returncode, [line for line in checked.stderr.splitlines() if UNIT.name in line]) == (0, [])
