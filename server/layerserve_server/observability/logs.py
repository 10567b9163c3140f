"""Structured logs on standard error: one line an event, as text or JSON. No line holds a tensor's content."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from types import TracebackType
from typing import TextIO

#: What a log record has of itself; everything else on it was given as `extra`.
OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


#: Longest text of a line: message, value or traceback, in characters. Some come from callers and files.
MAX_TEXT = 8000


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": middle_cut(record.getMessage()),
            **{key: middle_cut(value) if isinstance(value, str) else value for key, value in _extras(record).items()},
        }
        if record.exc_info:
            line["exception"] = middle_cut(self.formatException(record.exc_info))
        return json.dumps(line, default=lambda value: middle_cut(str(value)))


class TextFormatter(logging.Formatter):
    """A line for people: time, level, message, then what belongs to it as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, and the traceback where there is one."""
        extras = "".join(f" {key}={middle_cut(str(value))}" for key, value in _extras(record).items())
        line = f"{_time(record)} {record.levelname.lower():7} {middle_cut(record.getMessage())}{extras}"
        if record.exc_info:
            line += "\n" + middle_cut(self.formatException(record.exc_info))
        return line


def middle_cut(text: str, most: int = MAX_TEXT) -> str:
    """The text, or its beginning and end: those of a traceback say what happened, and where."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-(most // 2) :]}"


def set_up(level: str, kind: str, stream: TextIO | None = None) -> None:
    """Sends the logs of the server and of layergraph to standard error, or to `stream`."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if kind == "json" else TextFormatter())
    for name in ("layerserve_server", "layergraph"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level.upper())


def take_all(stream: TextIO) -> None:
    """Makes log lines in JSON of what else Python says: other packages' logs, warnings, errors that nobody handled."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logging.getLogger().handlers = [handler]
    logging.captureWarnings(True)
    logger = logging.getLogger("python")

    def in_main_thread(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        logger.critical("uncaught exception: %s", error, exc_info=(kind, error, trace))

    def in_thread(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_type is SystemExit or arguments.exc_value is None:
            return
        name = arguments.thread.name if arguments.thread else "?"
        found = (arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
        logger.error("uncaught exception in thread %s: %s", name, arguments.exc_value, exc_info=found)

    def in_destructor(arguments: sys.UnraisableHookArgs) -> None:
        if arguments.exc_value is not None:
            found = (arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
            logger.error("%s: %s", arguments.err_msg or "exception ignored", arguments.exc_value, exc_info=found)

    sys.excepthook, threading.excepthook, sys.unraisablehook = in_main_thread, in_thread, in_destructor


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in OWN}


def _time(record: logging.LogRecord) -> str:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{moment}.{int(record.msecs):03d}Z"
