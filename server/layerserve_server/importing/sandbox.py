"""Takes from a process what reading a file doesn't need: other files (Landlock), and system calls (seccomp).

Both are optional: what the kernel lacks is left out. Neither can be undone, and both hold for children.
See landlock(7) and seccomp(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
import sysconfig
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)

# Landlock: system calls (the same for all processors), and the rights of each version.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION, _PATH_BENEATH = 1, 1
_WRITE_FILE, _READ_FILE, _READ_DIR, _MAKE_DIR, _MAKE_REG, _TRUNCATE = (1 << bit for bit in (1, 2, 3, 7, 8, 14))
#: Version -> number of rights on files from that version on.
_FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 5: 16}
#: Rights to bind and connect TCP sockets (version 4), and to reach other processes by abstract sockets and signals (6).
_NETWORK, _SCOPES = 0b11, 0b11

# seccomp: BPF instructions (load a word, compare, return), offsets in seccomp_data, and actions.
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
#: First number of the x32 ABI, other names for the same calls.
_X32: Final = 0x40000000
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER_MODE = 38, 22, 2
_AUDIT: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
#: Refused calls, with their numbers on x86-64 and on ARM64 (None: it has none): the network, new processes, signals and
#: limits of other processes, attributes of files (which Landlock doesn't cover), and administration.
_REFUSED: Final[dict[str, tuple[int | None, int | None]]] = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "accept": (43, 202),
    "accept4": (288, 242),
    "bind": (49, 200),
    "listen": (50, 201),
    "fork": (57, None),
    "vfork": (58, None),
    "clone": (56, 220),
    "clone3": (435, 435),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "prlimit64": (302, 261),
    "setrlimit": (160, 164),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "setns": (308, 268),
    "unshare": (272, 97),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "mount_setattr": (442, 442),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "io_uring_setup": (425, 425),
    "userfaultfd": (323, 282),
    "open_by_handle_at": (304, 265),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "personality": (135, 92),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "clock_settime": (227, 112),
    "settimeofday": (164, 170),
}
#: Sends a signal to a thread; a process may send itself one, as `abort` does.
_TGKILL: Final = {"x86_64": 234, "aarch64": 131}


def landlock_version() -> int:
    """Version of the kernel's Landlock; 0 if it has none or it is off."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, 0, _GET_VERSION))) if _is_linux() else 0


def has_seccomp() -> bool:
    """Whether the kernel can filter system calls, and their numbers are known for this processor."""
    if not _is_linux() or platform.machine() not in _AUDIT:
        return False
    # A filter at address 0 is refused with EFAULT only if the kernel can take one.
    refused = _libc.prctl(_SET_SECCOMP, _FILTER_MODE, None, 0, 0) == -1
    return refused and ctypes.get_errno() == errno.EFAULT


def _is_linux() -> bool:
    return sys.platform == "linux"


def description() -> str:
    """What `enter` takes from a process on this system, for a log."""
    version = landlock_version()
    landlock = f"Landlock (version {version})" if version else "no Landlock"
    return f"{landlock}, {'seccomp' if has_seccomp() else 'no seccomp'}"


def python_folders() -> list[Path]:
    """Returns the folders of Python's modules, of which some are imported when first needed."""
    return [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]


def enter(readable: Iterable[Path], listed: Iterable[Path], writable: Path | None, file_bytes: int) -> None:
    """Restricts this process to reading files and folders `readable`, to the names in folders `listed`, and to files of
    at most `file_bytes` in the folder `writable`.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    if _is_linux():
        _libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if version := landlock_version():
        _restrict_files(version, readable, listed, writable)
    if has_seccomp():
        _filter_calls(platform.machine())


def _restrict_files(version: int, readable: Iterable[Path], listed: Iterable[Path], writable: Path | None) -> None:
    rights = (1 << max(count for first, count in _FILE_RIGHTS.items() if first <= version)) - 1
    ruleset = struct.pack("QQQ", rights, _NETWORK if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    # Older versions know a prefix of the structure.
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = _checked(_libc.syscall(_CREATE_RULESET, ruleset, size, 0))
    writing = _READ_FILE | _READ_DIR | _WRITE_FILE | _MAKE_DIR | _MAKE_REG | _TRUNCATE
    try:
        for path in readable:
            _allow(rules, path, _READ_FILE | _READ_DIR)
        for path in listed:
            _allow(rules, path, _READ_DIR)
        if writable is not None:
            _allow(rules, writable, writing & rights)
        _checked(_libc.syscall(_RESTRICT_SELF, rules, 0))
    finally:
        os.close(rules)


def _allow(rules: int, path: Path, rights: int) -> None:
    with suppress(FileNotFoundError):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not path.is_dir():
                rights &= ~_READ_DIR
            rule = struct.pack("=Qi", rights, place)
            _checked(_libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, rule, 0))
        finally:
            os.close(place)


def _filter_calls(machine: str) -> None:
    program = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_EQUAL, _AUDIT[machine], skip_if_true=1),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _FIRST_ARGUMENT_AT),
        _instruction(_EQUAL, os.getpid(), skip_if_true=3),
        _instruction(_LOAD, _NUMBER_AT),
        _instruction(_EQUAL, _TGKILL[machine], skip_if_false=1),
        _instruction(_RETURN, _REFUSE),
        _instruction(_LOAD, _NUMBER_AT),
    ]
    if machine == "x86_64":
        program += [_instruction(_AT_LEAST, _X32, skip_if_false=1), _instruction(_RETURN, _REFUSE)]
    for numbers in _REFUSED.values():
        number = numbers[list(_AUDIT).index(machine)]
        if number is not None:
            program += [_instruction(_EQUAL, number, skip_if_false=1), _instruction(_RETURN, _REFUSE)]
    program.append(_instruction(_RETURN, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(program))
    described = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    _checked(_libc.prctl(_SET_SECCOMP, _FILTER_MODE, described, 0, 0))


def _instruction(code: int, value: int, *, skip_if_true: int = 0, skip_if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, skip_if_true, skip_if_false, value)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
