"""Ids of requests: what the client sent comes back, and every error has one, on all transports."""

from __future__ import annotations

import re

import grpc
import pytest
from echo_servers import ECHO

KEY = "x-request-id"
GENERATED = re.compile("[0-9a-f]{16}")


def ids(metadata):
    return [value for key, value in metadata if key == KEY]


def of_unary(channel, method, sent):
    """The ids that come back with a call, and its status."""
    try:
        _, call = channel.unary_unary(ECHO + method).with_call(b"1", timeout=30, metadata=sent)
    except grpc.RpcError as error:
        return ids(error.trailing_metadata()), error.code().name
    return ids(call.trailing_metadata()), "OK"


def of_stream(channel, method, sent, message=b"1"):
    call = channel.unary_stream(ECHO + method)(message, timeout=30, metadata=sent)
    try:
        list(call)
    except grpc.RpcError as error:
        return ids(error.trailing_metadata()), error.code().name
    return ids(call.trailing_metadata()), "OK"


@pytest.mark.parametrize("ask", [of_unary, of_stream])
def test_what_was_sent_comes_back(serve_echo, ask, caplog):
    _, _, _, channel = serve_echo()
    good, bad = ("echo", "defect") if ask is of_unary else ("count", "count")
    wrong = {} if ask is of_unary else {"message": b"no number"}
    sent = [("user", "1"), (KEY, "id-1/a:b"), (KEY, "second")]
    assert ask(channel, good, sent) == (["id-1/a:b"], "OK")
    assert ask(channel, good, []) == ([], "OK")
    assert ask(channel, bad, sent, **wrong) == (["id-1/a:b"], "INTERNAL")
    (record,) = [record for record in caplog.records if hasattr(record, "correlation_id")]
    assert (record.request_id, hasattr(record, "trace_id")) == ("id-1/a:b", False)
    (found,), status = ask(channel, bad, [], **wrong)
    assert (bool(GENERATED.fullmatch(found)), status) == (True, "INTERNAL")
    assert caplog.records[-1].request_id == found


@pytest.mark.parametrize("method", ["invalid", "busy", "defect"])
def test_every_error_has_an_id(serve_echo, method):
    _, _, _, channel = serve_echo()
    (first,), _ = of_unary(channel, method, [])
    (second,), _ = of_unary(channel, method, [])
    assert GENERATED.fullmatch(first)
    assert first != second
    assert of_unary(channel, method, [(KEY, "mine")])[0] == ["mine"]


@pytest.mark.parametrize("sent", ["", "a b", 'a"b', "x" * 129, "a\\b"])
def test_an_id_that_is_not_valid_counts_as_none(serve_echo, sent):
    _, _, _, channel = serve_echo()
    assert of_unary(channel, "echo", [(KEY, sent)]) == ([], "OK")
    (found,), _ = of_unary(channel, "invalid", [(KEY, sent)])
    assert GENERATED.fullmatch(found)


def test_the_longest_id(serve_echo):
    _, _, _, channel = serve_echo()
    assert of_unary(channel, "echo", [(KEY, "x" * 128)]) == (["x" * 128], "OK")
