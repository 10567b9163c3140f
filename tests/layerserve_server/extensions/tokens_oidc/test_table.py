"""The table [jwt] of the tokens file: what it may hold, and that everything else is named with its key."""

from __future__ import annotations

import pytest
from layerserve_server.access.gate import Gate
from layerserve_server.access.tokens_file import TokensFileError, parse_tokens
from layerserve_server.extensions.installed import VERIFIERS
from layerserve_server.extensions.tokens_oidc.extension import JWT as KIND
from layerserve_server.token_command import token

JWT = '[jwt]\nkeys = "keys.json"\nissuer = "i"\naudience = "a"\n'


def read(text):
    return parse_tokens(text, "tokens file t.toml", [KIND])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[jwt]\nkeys = "k"\nissuer = "i"\n', "jwt.audience: got none, expected a value"),
        ('[jwt]\nkeys = "k"\naudience = "i"\n', "jwt.issuer: got none, expected a value"),
        (JWT + 'algorithms = ["HS256"]\n', "jwt.algorithms[0]: got 'HS256', expected 'RS256'"),
        (JWT + 'algorithms = ["none"]\n', "jwt.algorithms[0]: got 'none', expected 'RS256'"),
        (JWT + "algorithms = []\n", "jwt.algorithms: "),
        (JWT + "leeway_seconds = 3600\n", "jwt.leeway_seconds: got 3600, expected less than or equal to 300"),
        (JWT + '[jwt.roles]\nteam = ["all"]\n', "jwt.roles.team[0]: got 'all', expected 'predict'"),
        (JWT.replace("keys.json", "http://login.example/keys"), "jwt: expected keys as a file or an https:// address"),
        (JWT.replace("keys.json", "file:///etc/keys"), "jwt: expected keys as a file or an https:// address"),
    ],
)
def test_what_is_wrong_is_named_with_its_key(text, line):
    with pytest.raises(TokensFileError) as caught:
        read(text)
    assert str(caught.value).startswith(f"tokens file t.toml: {line}")


@pytest.mark.parametrize("seconds", [0, 300])
def test_the_leeway_may_be_none_or_five_minutes(seconds):
    assert read(JWT + f"leeway_seconds = {seconds}\n").jwt.leeway_seconds == seconds


def test_keys_may_be_fetched_over_tls_or_from_this_machine():
    assert not read(JWT).jwt.remote
    for address in ("https://h/k", "http://127.0.0.1:1/k"):
        assert read(JWT.replace("keys.json", address)).jwt.remote


def test_a_server_without_the_extension_refuses_the_table(tmp_path):
    """It must not serve as if the file had no rules for such tokens."""
    path = tmp_path / "tokens.toml"
    path.write_text(JWT)
    with pytest.raises(TokensFileError, match="unknown key 'jwt'"):
        Gate(path)


def test_a_server_has_it_and_a_token_can_be_added_to_the_file(tmp_path):
    assert KIND in VERIFIERS
    path = tmp_path / "tokens.toml"
    path.write_text(JWT)
    assert token(["create", "a", "--rights", "read", "--append", str(path)]) == 0
    found = read(path.read_text())
    assert found.jwt.issuer == "i"
    assert [one.name for one in found.tokens] == ["a"]
