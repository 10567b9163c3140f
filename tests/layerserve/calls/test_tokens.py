"""Tokens: where they come from, that each call has one, and that nothing shows one."""

from __future__ import annotations

import asyncio
import logging
import pickle
import warnings

import numpy as np
import pytest
from blocking import Blocking
from clocks import replace_time
from layerserve import AsyncClient, Client, InvalidArgument, PlaintextTokenWarning, Unauthenticated
from layerserve.calls import tokens
from layerserve.calls.connection import connection
from layerserve.calls.tokens import FixedToken, TokenFile, token_source

SECRET = "eyJhbGciOi.s3cr3t/+=~-_"


def sent(source):
    ((key, value),) = source.metadata()
    assert key == "authorization"
    return value


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    replace_time(monkeypatch, tokens, monotonic=lambda: now[0])
    return now


def test_a_token_is_text_a_file_or_a_function(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    for token in (SECRET, f" {SECRET}\n", file, lambda: SECRET):
        assert sent(token_source(token)) == f"Bearer {SECRET}"
    assert token_source(None).metadata() == ()


def test_a_file_is_read_again_when_it_changes(tmp_path, clock):
    """As Kubernetes changes it: the file is a link into a folder that is replaced."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(name)
    (tmp_path / "data").symlink_to("old")
    source = TokenFile(tmp_path / "data" / "token")
    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").replace(tmp_path / "data")
    assert sent(source) == "Bearer old"
    clock[0] += tokens.CHECK_SECONDS
    assert sent(source) == "Bearer new"


def test_a_file_is_not_read_for_each_call(tmp_path, clock):
    (tmp_path / "token").write_text("a")
    source = TokenFile(tmp_path / "token")
    (tmp_path / "token").unlink()
    clock[0] += tokens.CHECK_SECONDS / 2
    assert sent(source) == "Bearer a"


@pytest.mark.parametrize("content", [None, "", "two words"])
def test_a_token_is_kept_while_its_file_has_none(tmp_path, clock, caplog, content):
    file = tmp_path / "token"
    file.write_text("a")
    source = TokenFile(file)
    file.unlink()
    if content is not None:
        file.write_text(content)
    with caplog.at_level(logging.WARNING, "layerserve"):
        for _ in range(3):
            clock[0] += tokens.CHECK_SECONDS
            assert sent(source) == "Bearer a"
    assert len(caplog.records) == 1
    file.write_text("b")
    clock[0] += tokens.CHECK_SECONDS
    assert sent(source) == "Bearer b"


def test_each_time_that_the_file_is_missing_is_logged(tmp_path, clock, caplog):
    """Also if it is the same file that comes back."""
    file, away = tmp_path / "token", tmp_path / "away"
    file.write_text("a")
    source = TokenFile(file)
    with caplog.at_level(logging.WARNING, "layerserve"):
        for old, new in ((file, away), (away, file)) * 2:
            old.rename(new)
            clock[0] += tokens.CHECK_SECONDS
            assert sent(source) == "Bearer a"
    assert len(caplog.records) == 2


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="token"):
        Client("localhost:1", token=tmp_path / "token")


@pytest.mark.parametrize(
    ("token", "text"),
    [
        (f"Bearer {SECRET}", "token: got 30 characters, some of them spaces"),
        (f"{SECRET}\nx: y", "some of them spaces, line breaks or not ASCII"),
        (f"{SECRET}\u00e9", "not ASCII"),
        (f"{SECRET}\0", "not ASCII"),
        (SECRET * 1000, "token: got more than 16384 bytes"),
        (17, "token: got int, expected text, a Path, or a function"),
    ],
)
def test_what_is_no_token_is_refused_without_showing_it(token, text):
    with pytest.raises(InvalidArgument, match=text) as caught:
        Client("localhost:1", token=token)
    assert "s3cr3t" not in str(caught.value)


def test_a_path_as_text_is_no_token(tmp_path):
    (tmp_path / "token").write_text("a")
    with pytest.raises(InvalidArgument, match="pass a Path"):
        Client("localhost:1", token=str(tmp_path / "token"))
    assert sent(token_source("/a/token/may/begin/with/a/slash")) == "Bearer /a/token/may/begin/with/a/slash"


@pytest.mark.parametrize(("result", "text"), [(None, "got NoneType"), ("", "got no text"), (b"a", "got bytes")])
def test_a_function_returns_a_token(server, result, text):
    with Client(server.address, token=lambda: result) as client, pytest.raises(InvalidArgument, match=f"token: {text}"):
        client.models()


def test_what_a_function_raises_is_raised(server):
    def function():
        raise RuntimeError("no token today")

    with Client(server.address, token=function) as client, pytest.raises(RuntimeError, match="no token today"):
        client.models()


def test_the_blocking_client_refuses_a_function_of_asyncio(server):
    async def function():
        return SECRET

    with Client(server.address, token=function) as client, pytest.raises(InvalidArgument, match="AsyncClient takes"):
        client.models()


@pytest.mark.parametrize("kind", ["blocking", "function", "asyncio function"])
def test_each_call_has_the_token(server, kind, tmp_path):
    """Unary calls, prepared ones, streams in both directions, downloads, and training."""

    async def fetch():
        await asyncio.sleep(0)
        return SECRET

    server.token = SECRET
    loop = asyncio.new_event_loop()
    if kind == "blocking":
        client = Client(server.address, token=SECRET)
    else:
        client = Blocking(AsyncClient(server.address, token=fetch if kind != "function" else lambda: SECRET), loop)
    rows = [[1, 2, 3]]
    assert client.predict("double", rows).tolist() == [[2, 4, 6]]
    assert client.prepare("double")(rows).tolist() == [[2, 4, 6]]
    assert [one.tolist() for one in client.predict_many("double", [rows])] == [[[2, 4, 6]]]
    client.download("double", tmp_path / "file")
    client.train("double", np.zeros((4, 3)), np.zeros((4, 3))).wait()
    assert client.evaluate("double", np.zeros((4, 3)), np.zeros((4, 3)))
    checks = len(server.metadata)
    client.wait_until_ready(model="double")
    assert len(server.metadata) == checks + 2
    client.close()
    loop.close()
    assert {metadata.get("authorization") for metadata in server.metadata} == {f"Bearer {SECRET}"}


def test_a_function_is_called_for_each_call(server):
    given = iter("abc")
    with Client(server.address, token=lambda: next(given)) as client:
        client.models()
        client.models()
    assert [metadata["authorization"] for metadata in server.metadata] == ["Bearer a", "Bearer b"]


def test_nothing_shows_a_token(server, caplog):
    caplog.set_level(logging.DEBUG)
    server.token = "another"
    with Client(server.address, token=SECRET) as client:
        with pytest.raises(Unauthenticated) as caught:
            client.predict("double", [[1, 2, 3]])
        made = connection(server.address, token=SECRET)
        shown = [repr(client), repr(made), repr(made.token), repr(caught.value), str(caught.value), caplog.text]
        shown += [repr(vars(client)), pickle.dumps(caught.value).decode("latin-1"), repr(caught.value.metadata)]
    assert not [text for text in shown if "s3cr3t" in text]


def test_a_token_without_tls_to_another_machine_warns_where_the_client_is_made():
    with pytest.warns(PlaintextTokenWarning, match="is sent to models:8500 without TLS") as caught:
        Client("models:8500", token=SECRET)
    assert caught[0].filename == __file__
    assert "s3cr3t" not in str(caught[0].message)


def test_no_warning_where_nothing_can_be_read():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Client("models:8500", token=SECRET, tls=True)
        Client("localhost:8500", token=SECRET)
        Client("models:8500", token="")
        Client("models:8500")
    assert not caught


def test_a_source_has_no_token_in_its_repr():
    assert "s3cr3t" not in repr(FixedToken(SECRET))
