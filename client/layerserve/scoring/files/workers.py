"""The worker processes of a job. One that dies is replaced, and its fragment begun again."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from layerserve.errors import Aborted
from layerserve.scoring.files.fragments import Fragment
from layerserve.scoring.files.worker import Done, Failed, Progress, Task
from layerserve.scoring.threads import THREADS

#: Number of workers that a fragment may take with it.
_ATTEMPTS = 3
#: A group of its own, as Ctrl-C is for the parent, which ends them. Not a session: it has the priority of the parent's.
_PROGRAM = "import os; os.setpgid(0, 0); from layerserve.scoring.files.worker import main; main()"
#: Maximum time until something is yielded, in seconds.
_SILENCE = 0.5


class Workers:
    """Scores fragments in several processes. A context manager: at its end no process is left."""

    def __init__(self, task: Task, count: int, lock: int | None) -> None:
        """`lock` is a file descriptor that the processes keep open."""
        self._task = task
        self._count = count
        self._lock = lock
        self._left: deque[Fragment] = deque()
        self._messages: queue.SimpleQueue[Progress | Done | Exception] = queue.SimpleQueue()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._threads: list[threading.Thread] = []
        self._guard = threading.Lock()
        self._closed = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._closed = True
            for process in self._processes:
                process.kill()
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(BrokenPipeError):
                    pipe and pipe.close()

    def score(self, fragments: Iterable[Fragment]) -> Iterator[Progress | Done]:
        """Yields what becomes of fragments, and also if nothing does. Raises the error of the first that fails."""
        self._left.extend(fragments)
        count = len(self._left)
        for _ in range(min(self._count, count)):
            self._threads.append(threading.Thread(target=self._work, daemon=True))
            self._threads[-1].start()
        while count:
            try:
                message = self._messages.get(timeout=_SILENCE)
            except queue.Empty:
                message = Progress(0)
            if isinstance(message, Exception):
                raise message
            count -= isinstance(message, Done)
            yield message

    def _work(self) -> None:
        """Has fragments scored by one process after the other, which is one if none dies."""
        try:
            process: subprocess.Popen[bytes] | None = None
            while self._left:
                try:
                    fragment = self._left.popleft()
                except IndexError:
                    break
                for attempt in range(1, _ATTEMPTS + 1):
                    process = process or self._start()
                    if self._scored(process, fragment):
                        break
                    status = process.wait()
                    if self._closed:
                        return
                    if attempt == _ATTEMPTS:
                        raise Aborted(
                            f"{fragment.label}: {attempt} workers died of it, the last by {_cause(status)}; take the "
                            "file out, or pass a smaller --batch-size, and --resume"
                        )
                    process = None
        except Exception as error:
            self._messages.put(error)

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, THREADS: "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with self._guard:
            if self._closed:
                raise Aborted("the job has ended")
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                pass_fds=() if self._lock is None else (self._lock,),
            )
            self._processes.add(process)
        self._send(process, self._task)
        return process

    def _send(self, process: subprocess.Popen[bytes], message: object) -> None:
        assert process.stdin is not None
        # If it is dead, that is seen when its replies are read.
        with suppress(BrokenPipeError):
            pickle.dump(message, process.stdin)
            process.stdin.flush()

    def _scored(self, process: subprocess.Popen[bytes], fragment: Fragment) -> bool:
        """Returns whether a fragment was scored, rather than that the process died. Raises the fragment's error."""
        self._send(process, fragment)
        assert process.stdout is not None
        rows = 0
        while True:
            try:
                message: Any = pickle.load(process.stdout)
            except (EOFError, pickle.UnpicklingError):
                # They are read again.
                self._messages.put(Progress(-rows))
                return False
            if isinstance(message, Failed):
                raise message.error()
            if isinstance(message, Progress):
                rows += message.rows
            self._messages.put(message)
            if isinstance(message, Done):
                return True


def _cause(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    hint = ", which the system sends when memory is full" if -status == signal.SIGKILL else ""
    return f"signal {signal.Signals(-status).name}{hint}"
