"""Errors: their texts are safe, and every one has a status and the word that the client knows."""

import logging

import grpc
import pytest
from layerserve.errors import (
    CODES,
    CORRELATION_KEY,
    PUSHBACK_KEY,
    REASON_KEY,
    ClientClosed,
    ModelMismatch,
    from_status,
)
from layerserve_server import errors
from layerserve_server.transport.status import failure


def all_errors(root=errors.ServerError):
    return [root] + [error for child in root.__subclasses__() for error in all_errors(child)]


@pytest.mark.parametrize("kind", all_errors()[1:], ids=lambda kind: kind.__name__)
def test_every_error_has_a_status(kind):
    arguments = {errors.BusyError: ("text", 0.5), errors.VersionConflictError: ("m", 1, 2)}
    error = kind(*next((given for base, given in arguments.items() if issubclass(kind, base)), ("text",)))
    wire = failure(error, "/a/B")
    assert wire.code not in (grpc.StatusCode.OK, grpc.StatusCode.INTERNAL)
    assert dict(wire.metadata)[REASON_KEY] == kind.reason
    assert wire.text == str(error)


def test_the_client_knows_the_word_of_each_finer_error():
    words = {kind.reason for kind in all_errors()}
    # The client itself raises these two.
    assert set(CODES) - {ModelMismatch.code, ClientClosed.code} <= words
    wire = failure(errors.UnknownModelError("no model 'x'"), "/a/B")
    assert type(from_status(wire.code, wire.text, wire.metadata)) is CODES["model_not_found"]


def test_busy_says_when_to_come_back():
    wire = failure(errors.BusyError("full", 0.25), "/a/B")
    assert dict(wire.metadata)[PUSHBACK_KEY] == "250"


def test_an_error_of_ours_tells_nothing_but_an_id_that_the_log_has(caplog):
    with caplog.at_level(logging.ERROR):
        wire = failure(KeyError("/etc/secret"), "/a/B")
    assert wire.code is grpc.StatusCode.INTERNAL
    assert "secret" not in wire.text
    correlation = dict(wire.metadata)[CORRELATION_KEY]
    assert correlation in wire.text
    assert caplog.records[0].correlation_id == correlation


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain 'ü'", "plain 'ü'"),
        ("two\nlines\x00", "two\\nlines\\x00"),
        ("lone \ud800", "lone \\ud800"),
        ("x" * 5000, "x" * 1496 + " ..."),
    ],
)
def test_texts_become_one_safe_line(text, safe):
    assert errors.safe_text(text) == safe


def test_no_more_of_a_long_text_is_read_than_is_shown():
    class Text(str):
        def __iter__(self):
            raise AssertionError("reads all of it")

    assert errors.safe_text(Text("x" * 10**6), 10) == "xxxxxx ..."
