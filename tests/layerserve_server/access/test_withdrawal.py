"""What a caller has lost, it has lost for its next call, whatever was kept of earlier ones."""

from __future__ import annotations

import errno
from hashlib import sha256
from pathlib import Path

import pytest
from layerserve_server.access.gate import Gate
from layerserve_server.access.reserved import Restriction
from layerserve_server.access.tokens_file import Certificate, Token
from layerserve_server.errors import ForbiddenError, UnauthenticatedError
from tokens import bearer, entry
from withdrawals import call, check_expired, check_refused

TOKEN = entry("secret", 'rights = ["read"]', "bob")
CERTIFICATE = '\n[[certificates]]\nname = "shop"\nrights = ["read"]\n'


class Files:
    """The files of a gate. One that stays as it is isn't written again: what was kept of it is in use."""

    def __init__(self, folder):
        self._folder = folder
        self.write()

    def write(self, tokens=TOKEN, certificates=CERTIFICATE):
        path = self._folder / "tokens.toml"
        if not path.exists() or path.read_text() != f"{tokens}{certificates}":
            path.write_text(f"{tokens}{certificates}")

    def gate(self):
        return Gate(self._folder / "tokens.toml", certificates=True)


#: Calls with the token of a file, and with a certificate.
PRESENTED = {
    "bob": call(bearer("secret")),
    "shop": call(names=["shop"]),
}
#: By what is lost: who has lost it, and how the files are written then.
LOST = {
    "a token that was withdrawn": ("bob", {"tokens": ""}),
    "a token whose rights are others": ("bob", {"tokens": TOKEN.replace("read", "train")}),
    "a token that has another digest": ("bob", {"tokens": entry("other", 'rights = ["read"]', "bob")}),
    "a certificate that was withdrawn": ("shop", {"certificates": ""}),
    "a certificate whose rights are others": ("shop", {"certificates": CERTIFICATE.replace("read", "train")}),
}


@pytest.mark.parametrize(("who", "files"), LOST.values(), ids=LOST)
def test_what_was_admitted_is_refused_after_it_has_lost_its_right(tmp_path, who, files):
    on_disk = Files(tmp_path)
    check_refused(on_disk.gate(), PRESENTED, who, lambda: on_disk.write(**files))


@pytest.mark.parametrize("reserved", ["other", "b*"])
def test_a_model_that_is_reserved_for_others_is_refused_to_who_used_it(tmp_path, reserved):
    gate = Files(tmp_path).gate()
    caller = gate.admit(PRESENTED["bob"])
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
    on_disk = Files(tmp_path)
    on_disk.write(tokens=f"{TOKEN}expires = 2100-01-01T00:00:00Z\n")
    check_expired(on_disk.gate(), PRESENTED["bob"], monkeypatch)


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

    arrival = PRESENTED["bob" if kind == "token" else "shop"]
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


def test_what_could_not_be_read_once_is_read_at_the_next_look(tmp_path, monkeypatch):
    """A passing fault, such as a full table of open files, keeps no token that was withdrawn."""
    told = []
    on_disk = Files(tmp_path)
    gate = Gate(tmp_path / "tokens.toml", reread=lambda what, ok: told.append(ok))
    gate.admit(PRESENTED["bob"])
    on_disk.write(tokens="")
    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_text", fail)
        for _ in range(3):
            gate.refresh()
        gate.admit(PRESENTED["bob"])
    assert told.count(False) == 1, "it is reported once"
    gate.refresh()
    with pytest.raises(UnauthenticatedError):
        gate.admit(PRESENTED["bob"])


def fail(*_, **__):
    raise OSError(errno.EMFILE, "Too many open files")
