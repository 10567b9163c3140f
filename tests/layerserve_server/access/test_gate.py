"""The gate: who calls, by token or certificate, and what happens when the file of tokens changes."""

from __future__ import annotations

import logging
import os
import time
from types import SimpleNamespace

import pytest
from layerserve_server.access import credentials
from layerserve_server.access import gate as gates
from layerserve_server.access.balances import Balances
from layerserve_server.access.caller import ANYONE, MAX_KEPT, Caller
from layerserve_server.access.gate import CERTIFICATE_KEY, Gate
from layerserve_server.access.group import ProcessGroup
from layerserve_server.access.tokens_file import TokensFileError
from layerserve_server.errors import ForbiddenError, TokenExpiredError, UnauthenticatedError
from tokens import ENTRIES, bearer, entry, write_tokens

PREDICT = "/layerserve.v1.PredictionService/Predict"
LIST = "/layerserve.v1.ModelService/ListModels"
HEALTH = "/grpc.health.v1.Health/Check"


def arrival(method=PREDICT, token=None, names=(), metadata=()):
    return SimpleNamespace(
        method=method, metadata=[("user-agent", "x"), *metadata, *bearer(token)], certificate_names=lambda: names
    )


@pytest.fixture
def file(tmp_path):
    return write_tokens(tmp_path / "tokens.toml")


@pytest.fixture
def gate(file):
    return Gate(file)


def test_without_tokens_everyone_may_do_everything():
    gate = Gate()
    assert gate.trusted is gate.admit(arrival()) is gate.admit_http("/metrics", None)
    assert gate.trusted.unlimited
    assert (gate.trusted.name, gate.trusted.named) == (ANYONE.name, False)


def test_callers_without_a_token_may_do_what_is_allowed():
    gate = Gate(anonymous=["predict"])
    assert gate.trusted is None
    assert gate.admit(arrival(token="some")).may("predict", "m")
    text = "ListModels: callers without a token have no right 'read' on this server"
    with pytest.raises(UnauthenticatedError, match=text):
        gate.admit(arrival(LIST))
    with pytest.raises(UnauthenticatedError):
        gate.admit_http("/metrics", None)


def test_what_clients_ask_before_a_call_needs_any_right():
    method = "/layerserve.v1.ModelService/GetModel"
    caller = Gate(anonymous=["train"]).admit(arrival(method))
    caller.check_model("any", "m")
    reader = Caller("shop", ["read"], ["shop-*"])
    with pytest.raises(ForbiddenError, match=r"^model 'm': caller 'shop' has no right on it$"):
        reader.check_model("any", "m")
    with pytest.raises(
        UnauthenticatedError, match=r"^GetModel: callers without a token have no right on this server; send"
    ):
        Gate(anonymous=[]).admit(arrival(method))


def test_a_wrong_token_is_refused_where_none_is_needed(file):
    gate = Gate(file, anonymous=["predict"])
    assert gate.admit(arrival()).name == "anonymous"
    with pytest.raises(UnauthenticatedError, match="the token isn't valid on this server"):
        gate.admit(arrival(token="wrong"))
    # Health is open, whatever the caller presents.
    assert gate.admit(arrival(HEALTH, "wrong")).name == "anonymous"
    assert gate.admit(arrival(HEALTH, "all")).name == "all"


@pytest.mark.parametrize("header", ["all", "Basic all", "Bearer", "Bearer ", "Bearer  ", "", "Bearer all x", "\ud800"])
def test_only_bearer_tokens_are_read(gate, header):
    with pytest.raises(UnauthenticatedError):
        gate.admit(arrival(metadata=[("authorization", header)]))


def test_the_scheme_has_any_case_and_other_metadata_is_ignored(gate):
    metadata = [("authorization", "bEaReR all"), ("Authorization", "Bearer wrong"), ("x-bin", b"\xff")]
    assert gate.admit(arrival(metadata=metadata)).name == "all"


def test_several_headers_are_refused(gate):
    """Which one counts could differ between servers, and what is kept of one would be what another one gave."""
    twice = [("authorization", "Bearer read"), ("authorization", "Bearer all")]
    for metadata in (twice, twice[::-1], [twice[0]] * 2):
        for _ in range(2):
            with pytest.raises(UnauthenticatedError, match="authorization: got 2 headers, expected one"):
                gate.admit(arrival(LIST, metadata=metadata))
    assert gate.admit(arrival(LIST, metadata=twice[:1])).name == "read"
    assert gate.admit(arrival(HEALTH, metadata=twice)).name == "anonymous"


def test_what_is_kept_of_one_method_opens_no_other(gate):
    for _ in range(2):
        assert gate.admit(arrival(PREDICT, "predict")).name == "predict"
        with pytest.raises(ForbiddenError):
            gate.admit(arrival(LIST, "predict"))


def test_a_header_that_isn_t_text_is_no_token(gate):
    with pytest.raises(UnauthenticatedError):
        gate.admit(arrival(metadata=[("authorization", b"Bearer all")]))


def test_an_expired_token_is_refused_also_if_it_was_used_before(tmp_path):
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    gate = Gate(write_tokens(tmp_path / "t.toml", {"a": f'rights = ["predict"]\nexpires = {soon}'}))
    caller = gate.admit(arrival(token="a"))
    assert gate.admit(arrival(token="a")) is caller
    caller.expires = time.time() - 1
    with pytest.raises(TokenExpiredError, match="the token of 'a' has expired"):
        gate.admit(arrival(token="a"))
    assert caller.ended is None
    gate.refresh()
    assert isinstance(caller.ended, TokenExpiredError)


def test_a_changed_file_is_read_and_a_wrong_one_is_not(file, caplog):
    told = []
    gate = Gate(file, reread=lambda what, ok: told.append((what, ok)))
    callers = {token: gate.admit(arrival(LIST, token)) for token in ("all", "read")}
    gate.refresh()
    assert told == []

    write_tokens(file, {**ENTRIES, "all": 'rights = ["predict"]', "new": 'rights = ["read"]'})
    gate.refresh()
    assert told == [("tokens", True)]
    assert gate.admit(arrival(LIST, "new")).name == "new"
    with pytest.raises(ForbiddenError, match="caller 'all' has no right 'read'"):
        gate.admit(arrival(LIST, "all"))
    # Streams of callers that have lost something end, those of others don't.
    assert "its rights have changed" in str(callers["all"].ended)
    assert callers["read"].ended is None

    file.write_text("tokns = []")
    gate.refresh()
    assert told[1:] == [("tokens", False)]
    assert f"tokens file {file}: unknown key 'tokns'; the tokens read before stay in use" in caplog.text
    assert gate.admit(arrival(LIST, "new")).name == "new"
    # It is reported once.
    gate.refresh()
    assert len(told) == 2

    file.unlink()
    gate.refresh()
    gate.refresh()
    assert gate.admit(arrival(LIST, "new")).name == "new"
    assert told[2:] == [("tokens", False)]

    write_tokens(file, {"new": 'rights = ["read"]'})
    gate.refresh()
    assert told[-1] == ("tokens", True)
    with pytest.raises(UnauthenticatedError):
        gate.admit(arrival(LIST, "read"))
    assert "was withdrawn" in str(callers["read"].ended)


def test_calls_that_come_while_the_file_is_taken_lose_their_token_as_others_do(file, monkeypatch):
    gate = Gate(file)
    seen = []
    replace = credentials.Credentials.replace

    def while_replaced(self, old):
        seen.append(gate.admit(arrival(token="all")))
        replace(self, old)
        seen.append(gate.admit(arrival(token="all")))

    monkeypatch.setattr(credentials.Credentials, "replace", while_replaced)
    write_tokens(file, {**ENTRIES, "new": 'rights = ["read"]'})
    gate.refresh()
    seen.append(gate.admit(arrival(token="all")))
    monkeypatch.undo()
    assert [caller.ended for caller in seen] == [None] * 3
    write_tokens(file, {"new": 'rights = ["read"]'})
    gate.refresh()
    assert all("was withdrawn" in str(caller.ended) for caller in seen)


def test_a_caller_of_an_older_file_is_not_kept_for_a_newer_one(file, monkeypatch):
    gate = Gate(file)
    admit = Gate._admit

    def slow(self, call):
        caller = admit(self, call)
        monkeypatch.undo()
        write_tokens(file, {"new": 'rights = ["read"]'})
        gate.refresh()
        # As that of a JSON Web Token under other rules, which nothing ends if it comes after they were.
        caller.ended = None
        return caller

    monkeypatch.setattr(Gate, "_admit", slow)
    gate.admit(arrival(token="all"))
    with pytest.raises(UnauthenticatedError):
        gate.admit(arrival(token="all"))


def test_a_wrong_file_is_refused_at_the_start(file):
    file.write_text("tokns = []")
    with pytest.raises(TokensFileError, match="unknown key 'tokns'"):
        Gate(file)


def test_a_process_that_starts_while_the_file_is_wrong_has_the_tokens_of_the_others(file, tmp_path):
    told = []
    folder = tmp_path / "shared"
    folder.mkdir()
    group = ProcessGroup.of(folder)
    Balances.create(group.balances)
    Gate(file, group=group)
    file.write_text("tokns = []")
    late = Gate(file, group=group, reread=lambda what, ok: told.append((what, ok)))
    assert late.admit(arrival(LIST, "read")).name == "read"
    assert told == [("tokens", False)]
    late.refresh()
    assert len(told) == 1
    write_tokens(file, {"new": 'rights = ["read"]'})
    late.refresh()
    assert told[1:] == [("tokens", True)]
    file.unlink()
    assert Gate(file, group=group).admit(arrival(LIST, "new")).name == "new"
    assert [path.name for path in folder.iterdir() if path.name not in ("balances", "tokens.toml")] == []


def test_two_tokens_of_a_name_replace_one_another_without_a_gap(tmp_path):
    lines = 'rights = ["predict"]'
    path = tmp_path / "tokens.toml"
    path.write_text(entry("old", lines, "ci") + entry("new", lines, "ci"))
    gate = Gate(path)
    callers = [gate.admit(arrival(token=token)) for token in ("old", "new")]
    assert {caller.name for caller in callers} == {"ci"}
    path.write_text(entry("new", lines, "ci"))
    os.utime(path, ns=(1, 1))
    gate.refresh()
    with pytest.raises(UnauthenticatedError):
        gate.admit(arrival(token="old"))
    assert [caller.ended is None for caller in callers] == [False, True]
    assert gate.admit(arrival(token="new")).name == "ci"


def test_refusals_cost_no_memory(gate, monkeypatch):
    """Anyone may send any number of wrong tokens, and an honest caller many right headers."""
    for module in (credentials, gates):
        monkeypatch.setattr(module, "MAX_KEPT", 8)
    found = gate._credentials
    for number in range(100):
        with pytest.raises(UnauthenticatedError):
            gate.admit(arrival(token=f"wrong-{number}"))
        with pytest.raises(UnauthenticatedError):
            gate.admit(arrival(token=f"a.b.{number}"))
    assert len(found._known) == len(found._refused) == 0
    for number in range(100):
        gate.admit(arrival(metadata=[("authorization", "bearer" + " " * (1 + number) + "all")]))
        gate.admit(arrival(f"/unknown/{number}", "all"))
    assert len(found._known) <= 8
    assert len(gate._admitted) <= 8


def test_too_long_a_token_is_not_even_hashed(gate, monkeypatch):
    monkeypatch.setattr(credentials, "sha256", lambda data: pytest.fail("hashes it"))
    with pytest.raises(UnauthenticatedError):
        gate.admit(arrival(token="x" * (credentials.MAX_TOKEN + 1)))


CERTIFICATES = '\n[[certificates]]\nname = "shop"\nrights = ["predict"]\n'


def test_a_certificate_gives_all_rights_or_those_of_its_entry(file):
    with pytest.raises(UnauthenticatedError):
        Gate(certificates=True).admit(arrival())
    assert Gate(certificates=True).admit(arrival(names=["any"])).unlimited
    write_tokens(file, more=CERTIFICATES)
    gate = Gate(file, certificates=True)
    assert gate.admit(arrival(names=["x", "shop"])).name == "shop"
    with pytest.raises(ForbiddenError, match="caller 'shop' has no right 'read'"):
        gate.admit(arrival(LIST, names=["shop"]))
    with pytest.raises(UnauthenticatedError):
        gate.admit(arrival(names=["other"]))
    assert gate.admit(arrival(LIST, "read", names=["shop"])).name == "read"
    # Without TLS no names of a certificate are read.
    with pytest.raises(UnauthenticatedError):
        Gate(file).admit(arrival(names=["shop"]))


def test_names_of_a_certificate_are_forwarded_between_processes_only(file):
    write_tokens(file, more=CERTIFICATES)
    group = ProcessGroup()
    first, second = (Gate(file, certificates=True, group=group) for _ in range(2))
    stranger = Gate(file, certificates=True)
    assert second.admit(arrival(metadata=first.stamped(["shop"]))).name == "shop"
    assert first.stamped([]) == []
    for forged in (*stranger.stamped(["shop"]), (CERTIFICATE_KEY, b'["shop"]'), (CERTIFICATE_KEY, "shop")):
        with pytest.raises(UnauthenticatedError):
            second.admit(arrival(metadata=[forged]))


def test_a_process_knows_the_others_of_its_server(file):
    group = ProcessGroup()
    gate = Gate(file, group=group)
    assert gate.admit_own("/metrics", group.authorization) is ANYONE
    for header in (None, "", "Bearer all", ProcessGroup().authorization, "\xfc"):
        with pytest.raises(UnauthenticatedError):
            gate.admit_own("/metrics", header)


def test_models_are_named_or_patterns():
    caller = Caller("a", ["predict"], ["one", "text-*"])
    for model in ("one", "text-", "text-a"):
        caller.check_model("predict", model)
        caller.check_model("predict", model)
    for model in ("One", "two", "xtext-a", "", "text"):
        with pytest.raises(ForbiddenError, match=f"model '{model}': caller 'a' has no right 'predict' on it"):
            caller.check_model("predict", model)
    with pytest.raises(ForbiddenError):
        caller.check_model("read", "one")
    assert not Caller("a", ["predict"], []).may("predict", "one")


def test_names_of_models_that_callers_send_are_not_kept_for_ever():
    caller = Caller("a", ["predict"])
    for number in range(MAX_KEPT + 10):
        caller.check_model("predict", f"m{number}")
    assert len(caller._allowed) <= MAX_KEPT


@pytest.mark.parametrize(
    ("changes", "unlimited"), [({}, True), ({"models": ["a"]}, False), ({"rights": ["read"]}, False)]
)
def test_who_is_unlimited_is_asked_nothing(changes, unlimited):
    assert Caller("a", **changes).unlimited is unlimited


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO)


def test_a_file_that_changes_while_it_is_read_leaves_what_was_read_for_later_processes(file, tmp_path, monkeypatch):
    valid = file.read_text()
    take = Gate._take

    def changed_meanwhile(gate, found):
        take(gate, found)
        file.write_text(valid[: len(valid) // 2] + "[[")

    monkeypatch.setattr(Gate, "_take", changed_meanwhile)
    group = ProcessGroup(last_tokens=tmp_path / "last.toml")
    Gate(file, group=group)
    assert group.last_tokens.read_text() == valid
    assert Gate(file, group=group).admit(arrival(token="all")).name == "all"
