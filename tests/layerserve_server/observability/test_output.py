"""With JSON logs, every line that a server prints is one JSON object, whoever prints it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from layerserve_server.observability.logs import JsonFormatter
from layerserve_server.observability.output import MAX_LINE, rewritten

#: A plugin, as it is imported when a server starts, that says something in every way there is.
NOISY = """
import logging, os, sys, threading, warnings
print("printed")
sys.stderr.write("written\\n")
os.write(2, b"past Python\\n")
os.system("echo by a child; echo by a child with an error >&2")
warnings.warn("warned")
logging.getLogger("some.library").warning("logged by a library")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
class Fails:
    def __del__(self):
        raise ValueError("while it was deleted")
Fails()
"""


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("hello", "warning"),
        ("I1127 14:34:06.565407    6918 chttp2_transport.cc:1403] Got goaway", "info"),
        ("E0101 add_port.cc:83] Failed", "error"),
        ("[W1127 14:34 NNPACK.cpp:61] no NNPACK", "warning"),
        ("F0101 check.cc:1] Check failed", "critical"),
        ('{"time": "12:00", "of": "another program"}', "warning"),
        ('{"time": 12', "warning"),
    ],
)
def test_a_line_becomes_a_log_line(text: str, level: str) -> None:
    found = json.loads(rewritten(text, JsonFormatter()))
    assert (found["level"], found["logger"], found["message"]) == (level, "output", text)


def test_a_log_line_of_another_process_stays_as_it_is() -> None:
    line = '{"time": "2020-01-01T00:00:00.000Z", "level": "info", "logger": "a", "message": "m", "rows": 3}'
    assert rewritten(line, JsonFormatter()) == line


def lines(text: str) -> list[tuple[str, str]]:
    """Level and message of each line, all of which must be JSON."""
    return [(found["level"], found["message"]) for found in map(json.loads, text.splitlines())]


def test_whatever_is_printed_is_a_log_line(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    command = [sys.executable, "-m", "layerserve_server", str(tmp_path), "--host", "127.0.0.1", "--grpc-port", "0"]
    command += ["--metrics-port", "-1", "--log-format", "json", "--plugins", "noisy", "--no-warm-training"]
    command += ["--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "PYTHONUNBUFFERED": ""}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    assert server.stderr is not None
    said = ""
    while '"serving"' not in said.rpartition("\n")[0].rpartition("\n")[2]:
        line = server.stderr.readline()
        assert line, f"the server ended: {said}"
        said += line
    server.send_signal(signal.SIGINT)
    printed, rest = server.communicate(timeout=60)
    assert printed == ""
    found = lines(said + rest)
    for text in ("printed", "written", "past Python", "by a child", "by a child with an error", "logged by a library"):
        assert found.count(("warning", text)) == 2, text
    assert any(level == "warning" and "UserWarning: warned" in text for level, text in found)
    assert any(
        level == "error" and "uncaught exception in thread Thread-1 (<lambda>): division by zero" in text
        for level, text in found
    )
    assert ("error", "exception ignored: while it was deleted") in found
    assert found[-1] == ("info", "stopped")


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        (["--grpc-prot", "1"], {}, "unrecognized arguments: --grpc-prot"),
        (["nowhere"], {"LAYERSERVE_LOG_LEVL": "info"}, "did you mean 'LAYERSERVE_LOG_LEVEL'?"),
    ],
)
def test_a_refusal_is_one_too(arguments: list[str], variables: dict[str, str], expected: str, tmp_path: Path) -> None:
    """However it is that JSON is asked for: here in a file that the environment names."""
    file = tmp_path / "settings.toml"
    file.write_text('log_format = "json"\n')
    ended = subprocess.run(
        [sys.executable, "-m", "layerserve_server", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "LAYERSERVE_CONFIG": str(file), **variables},
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert any(expected in message for _, message in lines(ended.stderr))


def test_a_line_without_end_is_cut() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "layerserve_server.observability.output"],
        input=b"x" * (2 * MAX_LINE),
        capture_output=True,
        timeout=60,
    )
    assert len(lines(ended.stdout.decode())) == 2
