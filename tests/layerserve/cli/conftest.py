"""The command line."""

from __future__ import annotations

import io
import sys

import pytest
from layerserve.cli import main


@pytest.fixture
def cli(server, capsys, monkeypatch, tmp_path):
    """Run a command line in a folder of its own: gives (status, standard output, standard error)."""
    monkeypatch.setenv("LAYERSERVE_ADDRESS", server.address)
    monkeypatch.chdir(tmp_path)

    def run(line, stdin=None):
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin or ""))
        status = main(line.split())
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return run
