"""`layerserve token create`: the token is printed once, and the file gets its digest only."""

from __future__ import annotations

import time
from hashlib import sha256

import pytest
from layerserve_server.access.command import token
from layerserve_server.access.gate import Gate
from layerserve_server.access.tokens_file import read_text, tokens_in


def test_a_token_is_printed_with_the_lines_for_the_file(capsys, tmp_path):
    assert token(["create", 'a "b"\n', "--rights", "read,predict", "--models", "a-*, b", "--days", "2"]) == 0
    made, empty, *lines = capsys.readouterr().out.splitlines()
    assert (len(made), empty) == (43, "")
    file = tmp_path / "tokens.toml"
    file.write_text("\n".join(lines))
    (entry,) = tokens_in(read_text(file), file).tokens
    assert entry.sha256 == sha256(made.encode()).hexdigest()
    assert made not in file.read_text()
    assert (entry.name, entry.rights, entry.models) == ('a "b"\n', ("predict", "read"), ("a-*", "b"))
    assert entry.expires.timestamp() == pytest.approx(time.time() + 2 * 86400, abs=60)
    assert Gate(file).admit_http("/metrics", f"Bearer {made}").name == 'a "b"\n'
    assert token(["create", "a", "--rights", "read"]) == 0
    assert capsys.readouterr().out.splitlines()[0] != made


def test_entries_are_added_to_a_file(capsys, tmp_path):
    file = tmp_path / "tokens.toml"
    for name in ("a", "b"):
        options = ["--rows-per-minute", "5", "--max-runs", "1", "--append", str(file)]
        assert token(["create", name, "--rights", "train", *options]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 1
        file.chmod(0o640)
    found = tokens_in(read_text(file), file).tokens
    assert [(one.name, one.rows_per_minute, one.max_runs) for one in found] == [("a", 5.0, 1), ("b", 5.0, 1)]
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.toml"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--rights", "predct"], "right 'predct': expected one of predict, read, train, manage"),
        (["--rights", "read", "--days", "0"], "--days: got 0, expected 1 or more"),
        (["--rights", "read", "--rows-per-second", "-1"], "rows_per_second: got -1.0, expected greater than 0"),
        (
            ["--rights", "read", "--rows-per-second", "1", "--rows-per-minute", "1"],
            "expected one of rows_per_second and rows_per_minute",
        ),
    ],
)
def test_what_is_wrong_is_named_and_nothing_created(capsys, options, text):
    assert token(["create", "a", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err


def test_nothing_is_added_to_a_file_that_is_wrong(capsys, tmp_path):
    file = tmp_path / "tokens.toml"
    file.write_text("tokns = []\n")
    assert token(["create", "a", "--rights", "read", "--append", str(file)]) == 2
    assert "nothing is added" in capsys.readouterr().err
    assert file.read_text() == "tokns = []\n"
