"""The file of tokens: what it may hold, and that everything else is named with its key."""

from __future__ import annotations

from hashlib import sha256

import pytest
from layerserve_server.access.tokens_file import TokensFileError, parse_tokens, read_text

DIGEST = sha256(b"a").hexdigest()


def read_tokens(path):
    return parse_tokens(read_text(path), f"tokens file {path}")


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "tokens.toml"
        path.write_text(text)
        return path

    return write


def token(**lines: str) -> str:
    entry = {"name": '"a"', "sha256": f'"{DIGEST}"', "rights": '["read"]', **lines}
    return "[[tokens]]\n" + "".join(f"{key} = {value}\n" for key, value in entry.items() if value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("tokens = [", "tokens file {path}: "),
        ("tokns = []", "unknown key 'tokns'"),
        (token(name=""), "tokens[0].name: got none, expected a value"),
        (token(name='""'), "tokens[0].name: got '', expected "),
        (token(sha256='"abc"'), "tokens[0].sha256: got 'abc', expected 64 hexadecimal digits, as `layerserve token"),
        (token(sha256=""), "tokens[0].sha256: got none, expected 64 hexadecimal digits, as `layerserve token create`"),
        (token(sha256=f'"{DIGEST.upper()}"'), "tokens[0].sha256: got "),
        (token(rights='"read"'), "tokens[0].rights: got 'read', expected a list"),
        (
            token(rights='["read", "predct"]'),
            "tokens[0].rights[1]: got 'predct', expected 'predict', 'read', 'train' or 'manage'",
        ),
        (token(rights='["open"]'), "tokens[0].rights[0]: got 'open', expected"),
        (token(rights=""), "tokens[0].rights: got none, expected a value"),
        (token(models='"a"'), "tokens[0].models: got 'a', expected"),
        (token(model='["a"]'), "unknown key 'tokens[0].model'"),
        (token(expires="2027-01-01T00:00:00"), "tokens[0].expires: expected a time with its zone"),
        (token(expires='"soon"'), "tokens[0].expires: got 'soon', expected"),
        (token(rows_per_second="0"), "tokens[0].rows_per_second: got 0, expected greater than 0"),
        (token(rows_per_minute="0"), "tokens[0].rows_per_minute: got 0, expected greater than 0"),
        (token(rows_per_second="1.0", rows_per_minute="1.0"), "expected one of rows_per_second and rows_per_minute"),
        (token(max_dataset_bytes="-1"), "tokens[0].max_dataset_bytes: got -1, expected greater than or equal to 0"),
        (token(max_runs="-1"), "tokens[0].max_runs: got -1, expected greater than or equal to 0"),
        (token() + token(name='"b"'), f"expected tokens with different sha256, got '{DIGEST}' twice"),
        (
            '[[certificates]]\nname = "x"\nrights = []\n[[certificates]]\nname = "x"\nrights = []\n',
            "expected certificates with different names, got 'x' twice",
        ),
        ("tokens = " + "1" * 5000, "tokens file {path}: "),
        ("tokens = " + "[" * 50_000, "tokens file {path}: is nested too deep"),
    ],
)
def test_what_is_wrong_is_named_with_its_key(written, text, line):
    path = written(text)
    with pytest.raises(TokensFileError) as caught:
        read_tokens(path)
    assert line.format(path=path) in str(caught.value)
    assert str(caught.value).startswith(f"tokens file {path}: ")


@pytest.mark.parametrize(
    ("name", "least"), [("rows_per_second", 0.5), ("rows_per_minute", 0.5), ("max_runs", 0), ("max_dataset_bytes", 0)]
)
def test_limits_may_be_small(written, name, least):
    (found,) = read_tokens(written(token(**{name: str(least)}))).tokens
    assert getattr(found, name) == least


def test_no_digest_gets_into_a_log(written):
    with pytest.raises(TokensFileError) as caught:
        read_tokens(written(token(rows_per_second="1.0", rows_per_minute="1.0")))
    assert DIGEST not in str(caught.value)


def test_every_wrong_key_has_a_line(written):
    with pytest.raises(TokensFileError) as caught:
        read_tokens(written(token(name="", rights='["a"]', extra="1")))
    assert len(str(caught.value).splitlines()) == 3


def test_a_file_that_is_absent_is_named(tmp_path):
    with pytest.raises(TokensFileError, match=r"tokens file .*absent\.toml: .*No such file"):
        read_tokens(tmp_path / "absent.toml")


def test_defaults(written):
    (entry,) = read_tokens(written(token())).tokens
    assert (entry.models, entry.expires, entry.rows_per_second, entry.max_runs) == (("*",), None, None, None)
    assert read_tokens(written("")).tokens == ()


def test_a_missing_file_is_named_with_the_reason(tmp_path):
    file = tmp_path / "tokens.toml"
    with pytest.raises(TokensFileError) as caught:
        read_text(file)
    assert str(caught.value) == f"tokens file {file}: No such file or directory"
