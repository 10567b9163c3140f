"""What a process in the sandbox can't do."""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from layerserve_server.importing import sandbox

needs_landlock = pytest.mark.skipif(not sandbox.landlock_version(), reason="the kernel has no Landlock")
needs_seccomp = pytest.mark.skipif(not sandbox.has_seccomp(), reason="the kernel has no seccomp")


@pytest.fixture
def inside(tmp_path: Path) -> Callable[[Callable[[], object]], int]:
    """Returns the error number of an action in the sandbox, or 0; -N if signal N ended it."""
    for name in ("read", "listed", "write", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("content")

    def act(action: Callable[[], object]) -> int:
        child = os.fork()
        if child == 0:
            status = 255
            faulthandler.disable()
            try:
                sandbox.enter(
                    [tmp_path / "read", tmp_path / "other" / "file"],
                    [tmp_path / "listed"],
                    tmp_path / "write",
                    1 << 20,
                )
                action()
                status = 0
            except OSError as error:
                status = error.errno or 254
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return act


Act = Callable[[Callable[[], object]], int]


def test_it_reads_and_writes_what_it_may(inside: Act, tmp_path: Path) -> None:
    assert inside(lambda: (tmp_path / "read" / "file").read_text()) == 0
    assert inside(lambda: (tmp_path / "other" / "file").read_text()) == 0
    assert inside(lambda: os.listdir(tmp_path / "listed")) == 0
    assert inside(lambda: (tmp_path / "write" / "new").write_text("x")) == 0
    assert inside(lambda: (tmp_path / "write" / "folder").mkdir()) == 0
    assert (tmp_path / "write" / "new").read_text() == "x"


@needs_landlock
def test_other_files_are_out_of_reach(inside: Act, tmp_path: Path) -> None:
    (tmp_path / "other" / "second").write_text("secret")
    actions: list[Callable[[], object]] = [
        (tmp_path / "other" / "second").read_text,
        (tmp_path / "listed" / "file").read_text,
        lambda: os.listdir(tmp_path / "other"),
        lambda: (tmp_path / "read" / "file").write_text("changed"),
        lambda: (tmp_path / "read" / "new").write_text("new"),
        lambda: (tmp_path / "read" / "file").unlink(),
        lambda: (tmp_path / "write" / "file").rename(tmp_path / "other" / "moved"),
        lambda: os.symlink("/etc", tmp_path / "write" / "link"),
        lambda: os.mkfifo(tmp_path / "write" / "pipe"),
        lambda: os.truncate(tmp_path / "read" / "file", 0),
    ]
    for number, action in enumerate(actions):
        assert inside(action) in (1, 13, 18), number
    assert (tmp_path / "read" / "file").read_text() == "content"


@needs_seccomp
@pytest.mark.parametrize(
    "action",
    [
        lambda: socket.socket(),
        lambda: socket.socketpair(),
        lambda: os.posix_spawn("/bin/true", ["true"], {}),
        lambda: os.execv("/bin/true", ["true"]),
        lambda: os.kill(os.getppid(), signal.SIGTERM),
        lambda: os.kill(os.getpid(), 0),
        lambda: signal.pidfd_send_signal(os.pidfd_open(os.getppid()), signal.SIGTERM),
        lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 19),
        lambda: os.sched_setaffinity(os.getppid(), {0}),
        lambda: os.chmod("/proc/self/fd/0", 0),
        lambda: os.chroot("/"),
    ],
)
def test_calls_that_reading_does_not_need_are_refused(inside: Act, action: Callable[[], object]) -> None:
    assert inside(action) == 1


@needs_seccomp
def test_threads_are_refused(inside: Act) -> None:
    def start() -> None:
        try:
            threading.Thread(target=print).start()
        except RuntimeError:
            raise OSError(77, "can't start new thread") from None

    assert inside(start) == 77


def test_a_file_has_a_maximum_size(inside: Act, tmp_path: Path) -> None:
    assert inside(lambda: os.truncate(tmp_path / "write" / "file", (1 << 20) + 1)) == 27
    assert inside(lambda: (tmp_path / "write" / "file").write_bytes(bytes((1 << 20) + 1))) == 27


def test_a_crash_is_still_a_crash(inside: Act) -> None:
    assert inside(os.abort) == -signal.SIGABRT
    assert inside(lambda: signal.raise_signal(signal.SIGSEGV)) == -signal.SIGSEGV


#: The kernel's headers with the numbers of calls. All new processors share one list, which ARM64 extends a little.
HEADERS = {
    "x86_64": ("asm/unistd_64.h", ()),
    "aarch64": ("asm-generic/unistd.h", ("-D__BITS_PER_LONG=64", "-D__ARCH_WANT_SET_GET_RLIMIT")),
}


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_of_calls_are_those_of_the_system(machine: str) -> None:
    """Compared with the kernel's headers, where they are installed."""
    column = list(sandbox._AUDIT).index(machine)
    known = {name: numbers[column] for name, numbers in sandbox._REFUSED.items()} | {"tgkill": sandbox._TGKILL[machine]}
    header, options = HEADERS[machine]
    lines = [f"#ifdef __NR_{name}\n{name} = __NR_{name}\n#endif" for name in known]
    source = "\n".join([f"#include <{header}>", *lines])
    try:
        done = subprocess.run(
            ["cc", "-E", "-P", *options, "-"], input=source, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no C compiler, or no such header")
    found = {
        name: int(number)
        for name, _, number in (line.partition(" = ") for line in done.stdout.splitlines() if " = " in line)
    }
    assert len(found) > 60
    assert found == {name: known[name] for name in found}


def test_where_the_kernel_lacks_both_only_the_limit_of_sizes_holds(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from layerserve_server.importing import sandbox
sandbox.landlock_version = lambda: 0
sandbox._AUDIT.clear()
assert sandbox.description() == "no Landlock, no seccomp"
sandbox.enter([], [], Path({str(tmp_path)!r}), 1000)
Path("/etc/hostname").exists()
try:
    Path({str(tmp_path / "file")!r}).write_bytes(bytes(1001))
except OSError as error:
    assert error.errno == 27
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
