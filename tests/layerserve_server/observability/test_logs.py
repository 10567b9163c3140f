"""Logs: one line an event, with what belongs to it."""

import json
import logging
import re

import pytest
from layerserve_server.observability.logs import MAX_TEXT, JsonFormatter, TextFormatter, set_up


def record(**extra):
    made = logging.LogRecord("layerserve_server.app", logging.INFO, __file__, 1, "%s is ready", ("model 'm'",), None)
    vars(made).update(extra)
    return made


def test_json_has_the_extras_beside_the_message():
    line = json.loads(JsonFormatter().format(record(seconds=0.5)))
    assert line["message"] == "model 'm' is ready"
    assert (line["level"], line["seconds"]) == ("info", 0.5)
    assert line["time"].endswith("Z")


def test_text_is_for_people():
    line = TextFormatter().format(record(seconds=0.5))
    assert line.endswith("info    model 'm' is ready seconds=0.5")


def test_a_traceback_comes_along():
    try:
        raise KeyError("x")
    except KeyError as error:
        made = record(exc_info=(type(error), error, error.__traceback__))
    assert "KeyError" in json.loads(JsonFormatter().format(made))["exception"]
    assert "KeyError" in TextFormatter().format(made)


def test_times_are_utc_with_milliseconds():
    made = record(created=86400.25, msecs=250.0)
    assert json.loads(JsonFormatter().format(made))["time"] == "1970-01-02T00:00:00.250Z"
    assert TextFormatter().format(made).startswith("1970-01-02T00:00:00.250Z info ")


@pytest.mark.parametrize("kind", ["text", "json"])
def test_logs_of_server_and_graph_go_to_standard_error_from_a_level_on(kind, capsys):
    names = ("layerserve_server", "layergraph")
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in map(logging.getLogger, names)]
    try:
        for _ in range(2):  # set up anew, each line still comes once
            set_up("warning", kind)
        for name in ("layerserve_server.app", "layergraph.loading", "elsewhere"):
            logging.getLogger(name).info("too low")
            logging.getLogger(name).warning("to %s", name)
    finally:
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert [re.search(r"to ([a-z._]+)", line)[1] for line in lines] == ["layerserve_server.app", "layergraph.loading"]
    assert [line.startswith("{") for line in lines] == [kind == "json"] * 2


def test_what_callers_and_files_say_has_a_length():
    try:
        raise KeyError("x" * 10**7)
    except KeyError as error:
        made = record(exc_info=(type(error), error, error.__traceback__), model="n" * 10**7)
    made.msg, made.args = "m" * 10**7, None
    for formatter in (JsonFormatter(), TextFormatter()):
        line = formatter.format(made)
        assert len(line) < 5 * MAX_TEXT
        assert "Traceback" in line
