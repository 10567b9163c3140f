"""`layerserve token create`: the token is shown once, and never where its entry goes, which has its digest only."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import time
from hashlib import sha256

import pytest
from layerserve_server.access.gate import Gate
from layerserve_server.access.tokens_file import parse_tokens
from layerserve_server.token_command import token


def test_the_entry_is_printed_and_the_token_to_standard_error(capsys, tmp_path):
    assert token(["create", 'a "b"\n', "--rights", "read,predict", "--models", "a-*, b", "--days", "2"]) == 0
    out, err = capsys.readouterr()
    about, made = err.splitlines()
    assert (len(made), about) == (43, """the token of 'a "b"\\n', which isn't shown again:""")
    file = tmp_path / "tokens.toml"
    file.write_text(out)
    (entry,) = parse_tokens(file.read_text(), "the file").tokens
    assert entry.sha256 == sha256(made.encode()).hexdigest()
    assert made not in file.read_text()
    assert (entry.name, entry.rights, entry.models) == ('a "b"\n', ("predict", "read"), ("a-*", "b"))
    assert entry.expires.timestamp() == pytest.approx(time.time() + 2 * 86400, abs=60)
    assert Gate(file).admit_http("/metrics", f"Bearer {made}").name == 'a "b"\n'
    assert token(["create", "a", "--rights", "read"]) == 0
    assert capsys.readouterr().err.splitlines()[1] != made


def test_entries_are_added_to_a_file(capsys, tmp_path):
    file = tmp_path / "tokens.toml"
    for name in ("a", "b"):
        options = ["--rows-per-minute", "5", "--max-runs", "1", "--append", str(file)]
        assert token(["create", name, "--rights", "train", *options]) == 0
        assert capsys.readouterr().out == ""
        file.chmod(0o640)
    found = parse_tokens(file.read_text(), "the file").tokens
    assert [(one.name, one.rows_per_minute, one.max_runs) for one in found] == [("a", 5.0, 1), ("b", 5.0, 1)]
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.toml"]


@pytest.mark.parametrize(
    ("redirection", "refused"),
    [
        (">> tokens.toml", False),
        (">> tokens.toml 2> log", False),
        (">> tokens.toml 2>&1", True),
        (">> tokens.toml 2>> tokens.toml", True),
        ("--append tokens.toml 2>> tokens.toml", True),
        ("--append tokens.toml > out 2>&1", False),
        ("--token-file secret >> tokens.toml 2>&1", False),
        ("2>&1 | cat >> tokens.toml", True),
    ],
)
def test_no_redirection_puts_the_token_beside_its_entry(tmp_path, redirection, refused):
    file = tmp_path / "tokens.toml"
    file.write_text('[[tokens]]\nname = "b"\nsha256 = "' + "0" * 64 + '"\nrights = ["read"]\n')
    script = "import sys; from layerserve_server.token_command import token; sys.exit(token(sys.argv[1:]))"
    line = f"set -o pipefail; '{sys.executable}' -c '{script}' create a --rights read {redirection}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    text = file.read_text()
    if refused:
        assert done.returncode == 2
        assert 'name = "a"' not in text
        assert "expected another file, or the token would be in it; pass --token-file FILE" in text + done.stderr
        return
    assert done.returncode == 0
    assert [one.name for one in parse_tokens(file.read_text(), "the file").tokens] == ["b", "a"]
    digest = parse_tokens(text, "the file").tokens[1].sha256
    words = [word for path in tmp_path.iterdir() for word in path.read_text().split()] + done.stderr.split()
    (made,) = {word for word in words if sha256(word.encode()).hexdigest() == digest}
    assert made not in text


def test_a_token_goes_to_a_new_file_that_only_its_owner_reads(capsys, tmp_path):
    kept, file = tmp_path / "ci.token", tmp_path / "tokens.toml"
    line = ["create", "ci", "--rights", "read", "--token-file", str(kept), "--append", str(file)]
    before = os.umask(0)
    try:
        assert token(line) == 0
    finally:
        os.umask(before)
    assert capsys.readouterr() == ("", "")
    assert kept.stat().st_mode & 0o777 == 0o600
    made = kept.read_text()
    assert parse_tokens(file.read_text(), "the file").tokens[0].sha256 == sha256(made.strip().encode()).hexdigest()
    assert token(line) == 2
    assert "File exists" in capsys.readouterr().err
    assert kept.read_text() == made
    file.write_text("tokns = []\n")
    kept.unlink()
    assert token(line) == 2
    assert not kept.exists()


def test_a_token_whose_entry_cant_be_printed_is_not_kept(capsys, tmp_path, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys, "stdout", Full())
    assert token(["create", "ci", "--rights", "read", "--token-file", str(tmp_path / "kept")]) == 2
    assert "No space left" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()


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
