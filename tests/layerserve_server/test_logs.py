"""Logs: one line an event, with what belongs to it."""

import json
import logging

from layerserve_server.logs import JsonFormatter, TextFormatter


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
