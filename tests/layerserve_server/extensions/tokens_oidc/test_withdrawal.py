"""What the caller of a signed token has lost, it has lost for its next call, whatever was kept of earlier ones."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from layerserve_server.access.gate import Gate
from layerserve_server.errors import UnauthenticatedError
from layerserve_server.extensions.tokens_oidc.extension import JWT
from tokens import bearer, entry
from withdrawals import call, check_expired, check_refused

FIRST, SECOND = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
CLAIMS = {"iss": "https://login.example/", "aud": "layerserve", "sub": "ann", "rights": ["read"]}


def signed(key=FIRST):
    return jwt.encode({**CLAIMS, "exp": time.time() + 600}, key, "ES256", headers={"kid": "one"})


def jwk(key, kid="one"):
    return f'{{"keys": [{jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())[:-1]}, "kid": "{kid}"}}]}}'


RULES = 'keys = "keys.json"\nissuer = "https://login.example/"\naudience = "layerserve"\n'
#: Of callers that lose nothing.
OTHERS = entry("secret", 'rights = ["read"]', "bob") + '\n[[certificates]]\nname = "shop"\nrights = ["read"]\n'
KEYS = jwk(FIRST)


def write(folder, rules=RULES, keys=KEYS):
    """A file that stays as it is isn't written again: what was kept of it is in use."""
    text = OTHERS + (f"\n[jwt]\n{rules}" if rules else "")
    for name, content in (("keys.json", keys), ("tokens.toml", text)):
        path = folder / name
        if not path.exists() or path.read_text() != content:
            path.write_text(content)


@pytest.fixture
def gate(tmp_path):
    write(tmp_path)
    return Gate(tmp_path / "tokens.toml", certificates=True, kinds=[JWT])


LOST = {
    "a key that was withdrawn": {"keys": jwk(SECOND, "two")},
    "a key that was replaced under its id": {"keys": jwk(SECOND)},
    "another issuer": {"rules": RULES.replace("login", "other")},
    "another audience": {"rules": RULES.replace('"layerserve"', '"other"')},
    "roles that give other rights": {"rules": RULES + '[jwt.roles]\nread = ["train"]\n'},
    "no signed tokens any more": {"rules": ""},
}


@pytest.mark.parametrize("files", LOST.values(), ids=LOST)
def test_what_was_admitted_is_refused_after_it_has_lost_its_right(gate, tmp_path, files):
    arrivals = {"ann": call(bearer(signed())), "bob": call(bearer("secret")), "shop": call(names=["shop"])}
    check_refused(gate, arrivals, "ann", lambda: write(tmp_path, **files))


def test_who_loses_an_entry_of_the_file_takes_nothing_from_signed_tokens(gate, tmp_path):
    arrivals = {"ann": call(bearer(signed())), "bob": call(bearer("secret"))}
    path = tmp_path / "tokens.toml"
    check_refused(gate, arrivals, "bob", lambda: path.write_text(f"[jwt]\n{RULES}"))


def test_an_expired_token_is_refused_at_each_door_though_it_was_admitted(gate, monkeypatch):
    check_expired(gate, call(bearer(signed())), monkeypatch)


def test_keys_that_could_not_be_read_once_are_read_at_the_next_look(gate, tmp_path, monkeypatch):
    """A passing fault, such as a full table of open files, keeps no key that was withdrawn."""
    told = []
    gate = Gate(tmp_path / "tokens.toml", kinds=[JWT], reread=lambda what, ok: told.append(ok))
    arrival = call(bearer(signed()))
    gate.admit(arrival)
    write(tmp_path, keys=jwk(SECOND, "two"))
    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", fail)
        for _ in range(3):
            gate.refresh()
        gate.admit(arrival)
    assert told.count(False) == 1, "it is reported once"
    gate.refresh()
    with pytest.raises(UnauthenticatedError):
        gate.admit(arrival)


def fail(*_, **__):
    raise OSError(errno.EMFILE, "Too many open files")
