"""What follows from the code is as it was committed: names, defaults, bounds and rights that users rely on.

`make docs` rewrites these files. A change in one is for the changelog.
"""

import runpy

import pytest
from doc_blocks import ROOT


@pytest.mark.parametrize("script", ["docs/generate.py", "deploy/generate.py"])
def test_generated_files_are_as_committed(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [script, "--check"])
    assert runpy.run_path(str(ROOT / script))["main"]() == 0, capsys.readouterr().err
