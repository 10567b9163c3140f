"""A process that has imported what tests need from other packages: each run of tests is a fork of it, ready at once.

Its standard input has one request per line, its standard output one reply, both JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Imported before the first fork. Nothing of the project, and nothing that starts threads.
PACKAGES = (
    "torch", "keras", "numpy", "h5py", "grpc", "grpc.aio", "grpc_health.v1.health",
    "grpc_reflection.v1alpha.reflection", "google.protobuf.descriptor_pb2",
    "pydantic_settings", "prometheus_client", "typer", "rich.console", "hypothesis",
    "pytest", "_pytest.assertion.rewrite", "asyncio", "http.server", "torch.fx", "torch._dynamo", "coverage",
)  # fmt: skip
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def main() -> None:
    """Answers requests until its input ends."""
    prctl = ctypes.CDLL(None).prctl
    # What a test leaves running becomes a child of this process, which ends it, at the latest at its own end.
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGTERM, _end)
    for package in (*PACKAGES, "measuring", "running"):
        importlib.import_module(package)
    # As `python -m pytest` has it.
    sys.path[0] = ""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(_in_fork(request)), file=replies, flush=True)


def _in_fork(request: dict[str, Any]) -> dict[str, Any]:
    """Runs a request in a fork, and everything that it started ends with it.

    The reply is what `tests_run` or `reach` return, with `timeout` where the fork had to be ended, and the last test.
    """
    work = Path(tempfile.mkdtemp(prefix="mutants-"))
    reader, writer = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _be_the_fork(request, work, writer)
    os.close(writer)
    said, timeout = _read(reader, request["seconds"])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    _end_children()
    lines = [json.loads(line) for line in said.decode().splitlines()]
    reply = next((line["reply"] for line in lines if "reply" in line), None)
    last = next((line["test"] for line in reversed(lines) if "test" in line), None)
    output = (work / "output").read_text(errors="replace") if (work / "output").exists() else ""
    shutil.rmtree(work, ignore_errors=True)
    took = round(time.monotonic() - began, 2)
    return {"reply": reply, "timeout": timeout, "last": last, "output": output[-20000:], "took": took}


def _read(reader: int, seconds: float) -> tuple[bytes, bool]:
    """What the fork says until it closes the pipe or its time is up, and whether that was so."""
    end, said = time.monotonic() + seconds, b""
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while (left := end - time.monotonic()) > 0:
            ready, _, _ = select.select([pipe], [], [], left)
            if ready:
                part = pipe.read(1 << 16)
                if not part or (b'"reply"' in (said := said + part) and said.endswith(b"\n")):
                    return said, False
    return said, True


def _be_the_fork(request: dict[str, Any], work: Path, writer: int) -> None:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    output = os.open(work / "output", os.O_WRONLY | os.O_CREAT)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["TMPDIR"] = str(work)
    tempfile.tempdir = None

    pipe = os.fdopen(writer, "w")

    def say(line: dict[str, Any]) -> None:
        print(json.dumps(line), file=pipe, flush=True)

    try:
        say({"reply": _work(request, work, say)})
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    os._exit(0)


def _work(request: dict[str, Any], work: Path, say: Callable[[dict[str, Any]], None]) -> Any:
    if "measure" in request:
        return sys.modules["measuring"].measure(request["measure"], work, say)
    return sys.modules["running"].run(request["tests"], work, say)


def _end(*_: object) -> None:
    _end_children()
    os._exit(0)


def _end_children() -> None:
    """Ends what the fork left behind."""
    while True:
        children = [
            int(each) for each in Path("/proc/self/task").joinpath(str(os.getpid()), "children").read_text().split()
        ]
        if not children:
            return
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


if __name__ == "__main__":
    main()
