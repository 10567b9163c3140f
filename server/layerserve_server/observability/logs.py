"""Structured logs on standard error: one line per event, as text or JSON. No line contains tensor data."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from types import TracebackType
from typing import TextIO

#: Standard attributes of a log record; all others were passed as `extra`.
OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


#: Maximum length of a message, value or traceback in a line, in characters. Some come from clients and files.
MAX_TEXT = 8000


class JsonFormatter(logging.Formatter):
    """Formats each record as a JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record as a JSON line."""
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
    """Formats each record as a readable line: time, level, message, then the extra attributes as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record as a line, followed by the traceback if there is one."""
        extras = "".join(f" {key}={middle_cut(str(value))}" for key, value in _extras(record).items())
        line = f"{_time(record)} {record.levelname.lower():7} {middle_cut(record.getMessage())}{extras}"
        if record.exc_info:
            line += "\n" + middle_cut(self.formatException(record.exc_info))
        return line


def middle_cut(text: str, limit: int = MAX_TEXT) -> str:
    """Returns the text, with its middle cut out if it is too long: a traceback is informative at its ends."""
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-(limit // 2) :]}"


def set_up(level: str, kind: str, stream: TextIO | None = None) -> None:
    """Writes the logs of the server and of layergraph to `stream`, by default standard error.

    `kind` is "json" or "text".
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if kind == "json" else TextFormatter())
    for name in ("layerserve_server", "layergraph"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level.upper())


def take_all(stream: TextIO) -> None:
    """Writes all other output of Python as JSON lines: other packages' logs, warnings, uncaught exceptions."""
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
