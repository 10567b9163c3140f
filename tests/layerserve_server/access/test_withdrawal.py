"""What a caller has lost, it has lost for its next call, whatever was kept of earlier ones."""

from __future__ import annotations

import errno
import time
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from layerserve_server.access.gate import Gate
from layerserve_server.access.reserved import Restriction
from layerserve_server.access.tokens_file import Certificate, Token
from layerserve_server.errors import ForbiddenError, UnauthenticatedError
from tokens import bearer, entry

LIST = "/layerserve.v1.ModelService/ListModels"
FIRST, SECOND = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
CLAIMS = {"iss": "https://login.example/", "aud": "layerserve", "sub": "ann", "rights": ["read"]}


def signed(key=FIRST, **changes):
    claims = {**CLAIMS, "exp": time.time() + 600, **changes}
    return jwt.encode(claims, key, "ES256", headers={"kid": "one"})


def jwk(key, kid="one"):
    return f'{{"keys": [{jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())[:-1]}, "kid": "{kid}"}}]}}'


RULES = 'keys = "keys.json"\nissuer = "https://login.example/"\naudience = "layerserve"\n'
TOKEN = entry("secret", 'rights = ["read"]', "bob")
CERTIFICATE = '\n[[certificates]]\nname = "shop"\nrights = ["read"]\n'


KEYS = jwk(FIRST)


class Files:
    """The files of a gate. One that stays as it is isn't written again: what was kept of it is in use."""

    def __init__(self, folder):
        self._folder = folder
        self.write()

    def write(self, tokens=TOKEN, rules=RULES, keys=KEYS, certificates=CERTIFICATE):
        text = f"{tokens}{certificates}" + (f"\n[jwt]\n{rules}" if rules else "")
        for name, content in (("keys.json", keys), ("tokens.toml", text)):
            path = self._folder / name
            if not path.exists() or path.read_text() != content:
                path.write_text(content)

    def gate(self):
        return Gate(self._folder / "tokens.toml", certificates=True)


#: What presents itself: the token of a file, one that is signed, or a certificate.
PRESENTED = {
    "token": lambda: bearer("secret"),
    "signed": lambda: bearer(signed()),
    "certificate": tuple,
}
#: By what is lost: who has lost it, and how the files are written then.
LOST = {
    "a token that was withdrawn": ("token", {"tokens": ""}),
    "a token whose rights are others": ("token", {"tokens": TOKEN.replace("read", "train")}),
    "a token that has another digest": ("token", {"tokens": entry("other", 'rights = ["read"]', "bob")}),
    "a key that was withdrawn": ("signed", {"keys": jwk(SECOND, "two")}),
    "a key that was replaced under its id": ("signed", {"keys": jwk(SECOND)}),
    "another issuer": ("signed", {"rules": RULES.replace("login", "other")}),
    "another audience": ("signed", {"rules": RULES.replace('"layerserve"', '"other"')}),
    "roles that give other rights": ("signed", {"rules": RULES + '[jwt.roles]\nread = ["train"]\n'}),
    "no signed tokens any more": ("signed", {"rules": ""}),
    "a certificate that was withdrawn": ("certificate", {"certificates": ""}),
    "a certificate whose rights are others": ("certificate", {"certificates": CERTIFICATE.replace("read", "train")}),
}


@pytest.mark.parametrize(("who", "files"), LOST.values(), ids=LOST)
def test_what_was_admitted_is_refused_after_it_has_lost_its_right(tmp_path, who, files):
    on_disk = Files(tmp_path)
    gate = on_disk.gate()
    arrivals = {
        name: SimpleNamespace(
            method=LIST,
            metadata=list(present()),
            certificate_names=lambda name=name: ["shop"] if name == "certificate" else [],
        )
        for name, present in PRESENTED.items()
    }
    # Twice, so that whatever is kept of a caller has been used.
    callers = {name: [gate.admit(arrival) for _ in range(2)][1] for name, arrival in arrivals.items()}
    assert {name: caller.name for name, caller in callers.items()} == {
        "token": "bob",
        "signed": "ann",
        "certificate": "shop",
    }
    header = dict(arrivals[who].metadata).get("authorization")
    if header is not None:
        assert gate.admit_http("/metrics", header) is callers[who]
    on_disk.write(**files)
    gate.refresh()
    for _ in range(2):
        with pytest.raises((UnauthenticatedError, ForbiddenError)):
            gate.admit(arrivals[who])
        if header is not None:
            with pytest.raises((UnauthenticatedError, ForbiddenError)):
                gate.admit_http("/metrics", header)
    # Its streams end, and nobody else loses anything.
    assert callers[who].lost("") is not None
    for name in PRESENTED.keys() - {who}:
        assert gate.admit(arrivals[name]).key == callers[name].key, name
        assert callers[name].lost("") is None, name


@pytest.mark.parametrize("reserved", ["other", "b*"])
def test_a_model_that_is_reserved_for_others_is_refused_to_who_used_it(tmp_path, reserved):
    gate = Files(tmp_path).gate()
    caller = gate.admit(SimpleNamespace(method=LIST, metadata=bearer("secret"), certificate_names=tuple))
    caller.check_model("read", "m")
    gate.reserved.set({"m": Restriction((reserved,))})
    if reserved == "b*":
        caller.check_model("read", "m")
        assert caller.lost("m") is None
    else:
        with pytest.raises(ForbiddenError):
            caller.check_model("read", "m")
        assert caller.lost("m") is not None
    caller.check_model("read", "n")


def test_an_expired_token_is_refused_at_each_door_though_it_was_admitted(tmp_path, monkeypatch):
    gate = Files(tmp_path).gate()
    arrival = SimpleNamespace(method=LIST, metadata=bearer(signed()), certificate_names=tuple)
    caller = [gate.admit(arrival) for _ in range(2)][1]
    monkeypatch.setattr("layerserve_server.access.caller.time", SimpleNamespace(time=lambda: caller.expires + 1))
    for _ in range(2):
        with pytest.raises(UnauthenticatedError, match="has expired"):
            gate.admit(arrival)
        with pytest.raises(UnauthenticatedError, match="has expired"):
            gate.admit_http("/metrics", arrival.metadata[0][1])


#: Another value of each field that an entry may have.
OTHERS = {
    "name": '"eve"',
    "rights": '["read", "predict"]',
    "models": '["m-*"]',
    "rows_per_second": "5",
    "rows_per_minute": "5",
    "max_runs": "2",
    "max_dataset_bytes": "100",
    "expires": "2100-01-01T00:00:00Z",
}


def granted(caller):
    quota = caller.quota
    limits = quota and (quota.name, quota.rows, quota.seconds, quota.max_runs, quota.max_dataset_bytes)
    return caller.name, caller.rights, caller.models, caller.expires, caller.unlimited, limits


CHANGES = [("token", field) for field in OTHERS]
# By its name a certificate is found, and it has no end of its own here.
CHANGES += [("certificate", field) for field in OTHERS.keys() & Certificate.model_fields.keys() - {"name"}]


@pytest.mark.parametrize(("kind", "changed"), sorted(CHANGES))
def test_what_an_entry_grants_is_what_the_file_says_now(tmp_path, kind, changed):
    """As a server grants it that reads the file for the first time: in both directions."""
    assert OTHERS.keys() == Token.model_fields.keys() - {"sha256"}
    lines = {"rights": '["read"]', **({"name": '"shop"'} if kind == "certificate" else {"name": '"bob"'})}
    on_disk = Files(tmp_path)

    def write(values):
        text = "".join(f"{name} = {value}\n" for name, value in values.items())
        if kind == "token":
            on_disk.write(tokens=f'[[tokens]]\nsha256 = "{sha256(b"secret").hexdigest()}"\n{text}')
        else:
            on_disk.write(certificates=f"\n[[certificates]]\n{text}")

    arrival = SimpleNamespace(
        method=LIST, metadata=bearer("secret") if kind == "token" else [], certificate_names=lambda: ["shop"]
    )
    write(lines)
    gate = on_disk.gate()
    for values in ({**lines, changed: OTHERS[changed]}, lines):
        before = gate.admit(arrival)
        write(values)
        gate.refresh()
        now = gate.admit(arrival)
        assert granted(now) == granted(on_disk.gate().admit(arrival)) != granted(before)
        # Its streams end, as they have the earlier caller.
        assert before.ended is not None
        assert now.ended is None


@pytest.mark.parametrize("who", ["a token that was withdrawn", "a key that was withdrawn"])
def test_what_could_not_be_read_once_is_read_at_the_next_look(tmp_path, monkeypatch, who):
    """A passing fault, such as a full table of open files, keeps no token or key that was withdrawn."""
    told = []
    on_disk = Files(tmp_path)
    gate = Gate(tmp_path / "tokens.toml", reread=lambda what, ok: told.append(ok))
    present, files = LOST[who]
    call = SimpleNamespace(method=LIST, metadata=PRESENTED[present](), certificate_names=list)
    gate.admit(call)
    on_disk.write(**files)
    with monkeypatch.context() as broken:
        for name in ("read_text", "read_bytes"):
            broken.setattr(Path, name, fail)
        for _ in range(3):
            gate.refresh()
        gate.admit(call)
    assert told.count(False) == 1, "it is reported once"
    gate.refresh()
    with pytest.raises(UnauthenticatedError):
        gate.admit(call)


def fail(*_, **__):
    raise OSError(errno.EMFILE, "Too many open files")
