"""What an app's process may reach: its data, its own folder, its channel to the SuperNode, and nothing else.

A warm process calls :func:`confine` once, before it loads an app. The process and all that it forks stay confined.

* Landlock (Linux 5.13 and later) allows files by their folders. It also hides the memory and the environment of all
  other processes. From its version 4 on it forbids TCP, and from version 6 on signals to other processes.
* seccomp forbids system calls: new sockets, tracing, namespaces, what goes around the other rules, and signals where
  Landlock lacks them. A socket pair is all that an app and its own processes can talk over.
* All capabilities are dropped.

The constants are those of linux/landlock.h, linux/seccomp.h and linux/filter.h. Like ``parent.py``, this module imports
nothing of this package.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 22, 24, 38
FILTER_MODE, CAPABILITIES, CAPABILITY_VERSION = 2, 64, 0x20080522

# The same numbers on every architecture.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
PATH_BENEATH = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = (1 << bit for bit in range(4))
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
READ = EXECUTE | READ_FILE | READ_DIR
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
TCP = 0b11  # bind, connect
ABSTRACT_SOCKETS, SIGNALS = 1, 2

# An app can read these. In /etc, and nowhere else, there are secrets beside what libraries need.
SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt/intel", "/opt/nvidia", "/opt/rocm", "/nix/store",
    "/proc", "/sys",
)  # fmt: skip
ETC = (
    "alternatives", "ca-certificates", "debian_version", "fonts", "group", "host.conf", "hosts", "ld.so.cache",
    "ld.so.conf", "ld.so.conf.d", "ld.so.preload", "localtime", "mime.types", "nsswitch.conf", "nvidia", "OpenCL",
    "os-release", "passwd", "pki/tls/certs", "protocols", "services", "ssl/certs", "ssl/openssl.cnf", "timezone",
)  # fmt: skip
DEVICES = ("full", "null", "random", "shm", "urandom", "zero")
GPUS = ("dri", "dxg", "kfd", "nvidia*")

# System calls by name: their numbers on x86_64 and aarch64.
_CALLS = {
    "add_key": (248, 217), "bpf": (321, 280), "clone": (56, 220), "clone3": (435, 435), "connect": (42, 203),
    "fsopen": (430, 430), "io_uring_setup": (425, 425), "ioctl": (16, 29), "kcmp": (312, 272), "keyctl": (250, 219),
    "kill": (62, 129), "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429),
    "open_by_handle_at": (304, 265), "open_tree": (428, 428), "perf_event_open": (298, 241), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "pivot_root": (155, 41), "prlimit64": (302, 261), "process_madvise": (440, 440),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "ptrace": (101, 117), "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "setns": (308, 268), "socket": (41, 198),
    "socketpair": (53, 199), "tgkill": (234, 131), "tkill": (200, 130), "umount2": (166, 39), "unshare": (272, 97),
    "userfaultfd": (323, 282),
}  # fmt: skip
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH_..., column of _CALLS
_WITH_RULES = {"clone", "clone3", "ioctl", "prlimit64", "socketpair"}
_SIGNALS = {"kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal"}
NEW_NAMESPACES = 0x7E020000  # CLONE_NEW...
TIOCSTI, TIOCLINUX = 0x5412, 0x541C  # both type into a terminal that this process holds open
FIRST_X32 = 0x40000000  # x86_64's calls with 32-bit pointers have numbers of their own

_LOAD, _AND, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000  # the second with an errno


class Kernel(NamedTuple):
    """What this kernel can confine with.

    Attributes:
        landlock: version of its Landlock; 0 for none.
        seccomp: whether it filters system calls, of a machine that is known here.
    """

    landlock: int
    seccomp: bool

    @property
    def is_whole(self) -> bool:
        """Whether files, network, memory and signals of others are all out of an app's reach."""
        return self.landlock >= 1 and self.seccomp

    def describe(self) -> str:
        """One line for the log: what is in force, and what is missing."""
        if self.is_whole:
            return f"apps are confined by Landlock {self.landlock} and seccomp: they reach their data, their own folder and their channel"
        if self.seccomp:
            return (
                "apps are confined in part, by seccomp: this kernel has no Landlock (Linux 5.13, lsm=landlock), "
                "so an app can read and write all files of this user, the client's key among them"
            )
        if self.landlock:
            return f"apps are confined in part, by Landlock {self.landlock}: without seccomp an app can use sockets"
        return (
            "apps are not confined: this kernel has neither Landlock (Linux 5.13, lsm=landlock) nor seccomp"
        )


class Reach(NamedTuple):
    """The folders and files of an app beside those of the system and of Python.

    Attributes:
        reads: what it may read.
        writes: what it may change.
        hidden: files that it may not even read, wherever they lie.
    """

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()


NOTHING_MORE = Reach()


def detect() -> Kernel:
    """Ask the kernel."""
    landlock = _libc.syscall(CREATE_RULESET, None, 0, 1)
    seccomp = Path("/proc/sys/kernel/seccomp").exists() and platform.machine() in _MACHINES
    return Kernel(max(landlock, 0), seccomp)


def confine(reach: Reach) -> None:
    """Confine this process, which has one thread, and all that it will fork. Raises OSError where that fails."""
    kernel = detect()
    if _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise _error("no_new_privs")
    _drop_capabilities()
    if kernel.landlock:
        _restrict_files(kernel.landlock, reach)
        # Others are kept away by Landlock now. Until here nobody but root could look into this process, also not
        # the process itself, which finds its own open files in /proc.
        _libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    if kernel.seccomp:
        _filter_calls(program(platform.machine(), signals=kernel.landlock < 6))


def close_all_but(kept: set[int]) -> None:
    """Leave open only standard input and output and ``kept``; the others read nothing from now on.

    Their numbers stay taken, because objects of this process still hold them and would close them later.
    """
    try:
        found = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    except OSError:  # a process that nobody may look into, not even itself
        found = list(range(3, 4096))
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in found:
        if descriptor > 2 and descriptor not in {*kept, nothing}:
            with suppress(OSError):
                os.fstat(descriptor)
                os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def _drop_capabilities() -> None:
    for capability in range(CAPABILITIES):
        _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails where this process has none
    header, none = struct.pack("=Ii", CAPABILITY_VERSION, 0), bytes(24)
    if _libc.capset(header, none):
        raise _error("capset")


# -- files ------------------------------------------------------------------------------------------


def _restrict_files(version: int, reach: Reach) -> None:
    handled = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    scoped = ABSTRACT_SOCKETS | SIGNALS
    rules = struct.pack("=QQQ", handled, TCP, scoped)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = _libc.syscall(CREATE_RULESET, rules, len(rules), 0)
    if ruleset < 0:
        raise _error("landlock_create_ruleset")
    try:
        hidden = {Path(file).resolve() for file in reach.hidden}
        for paths, rights in (
            ((*_system(), *_python(), *map(Path, reach.reads)), READ),
            ((*_devices(), *map(Path, reach.writes)), handled),
        ):
            for path in paths:
                for shown in without(path.resolve(), hidden):
                    _allow(ruleset, shown, rights & handled)
        if _libc.syscall(RESTRICT_SELF, ruleset, 0):
            raise _error("landlock_restrict_self")
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there, or out of this user's reach
    try:
        rule = struct.pack("=Qi", rights if path.is_dir() else rights & OF_FILES, descriptor)
        if _libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, rule, 0):
            raise _error(f"landlock_add_rule {path}")
    finally:
        os.close(descriptor)


def without(path: Path, hidden: set[Path]) -> Iterator[Path]:
    """``path``, or where it holds a hidden file all that lies beside the way to it."""
    if path in hidden:
        return
    if not any(file.is_relative_to(path) for file in hidden):
        yield path
        return
    for child in path.iterdir():
        if not child.is_symlink():
            yield from without(child, hidden)


def _system() -> Iterable[Path]:
    return [Path(folder) for folder in SYSTEM] + [Path("/etc") / name for name in ETC]


def _devices() -> Iterable[Path]:
    return [
        Path("/dev", name) for name in DEVICES
    ] + [path for pattern in GPUS for path in Path("/dev").glob(pattern)]  # fmt: skip


def _python() -> Iterator[Path]:
    """Where this Python and its libraries lie. A checkout of Bouquet is left out: it holds more than code."""
    own = Path(__file__).resolve().parents[3]
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    for entry in (sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path, *libraries):
        path = Path(entry).resolve()
        if entry and (path != own or path.name == "site-packages"):
            yield path


# -- system calls -----------------------------------------------------------------------------------


def program(machine: str, *, signals: bool) -> bytes:
    """The filter of system calls for ``machine``; ``signals``: whether signals are forbidden as well."""
    architecture, column = _MACHINES[machine]
    refused = {name: _CALLS[name][column] for name in _CALLS.keys() - _WITH_RULES - _SIGNALS}
    if signals:
        refused |= {name: _CALLS[name][column] for name in _SIGNALS}
    number = {name: _CALLS[name][column] for name in _WITH_RULES}
    body = [
        # A program of another architecture would mean other calls by the same numbers.
        *_instructions(
            (_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _refuse(errno.ENOSYS))
        ),
        *_instructions(
            (_LOAD, 0, 0, 0), (_AT_LEAST, 0, 1, FIRST_X32), (_RETURN, 0, 0, _refuse(errno.ENOSYS))
        ),
    ]
    for call in sorted(refused.values()):
        body += _instructions((_EQUAL, 0, 1, call), (_RETURN, 0, 0, _refuse(errno.EPERM)))
    # Its flags lie in memory, where a filter cannot look. The C library then uses clone.
    body += _instructions((_EQUAL, 0, 1, number["clone3"]), (_RETURN, 0, 0, _refuse(errno.ENOSYS)))
    body += _when(number["clone"], (_LOAD, 0, 0, _argument(0)), (_ANY_BIT, 1, 0, NEW_NAMESPACES))
    # The limits of this process itself are named by 0.
    body += _when(number["prlimit64"], (_LOAD, 0, 0, _argument(0)), (_EQUAL, 0, 1, 0))
    body += _when(
        number["ioctl"],
        (_LOAD, 0, 0, _argument(1)),
        (_EQUAL, 2, 0, TIOCSTI),
        (_EQUAL, 1, 0, TIOCLINUX),
    )
    # A datagram names its receiver, which can be any socket in the file system.
    body += _when(number["socketpair"], (_LOAD, 0, 0, _argument(1)), (_AND, 0, 0, 0xF), (_EQUAL, 1, 0, 2))
    body += _instructions((_RETURN, 0, 0, _ALLOW))
    return b"".join(body)


def _instructions(*lines: tuple[int, int, int, int]) -> list[bytes]:
    """code, jump if true, jump if false, operand."""
    return [struct.pack("=HBBI", *line) for line in lines]


def _when(call: int, *test: tuple[int, int, int, int]) -> list[bytes]:
    """Refuse ``call`` where the last line of ``test`` jumps by one, and allow it where it does not jump."""
    decision = ((_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _refuse(errno.EPERM)))
    return _instructions((_EQUAL, 0, len(test) + len(decision), call), *test, *decision)


def _argument(position: int) -> int:
    """Where a filter finds the lower half of an argument, on a little-endian machine."""
    return 16 + 8 * position


def _refuse(number: int) -> int:
    return _REFUSE | number


def _filter_calls(content: bytes) -> None:
    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    rules = Program(len(content) // 8, content)
    if _libc.prctl(PR_SET_SECCOMP, FILTER_MODE, ctypes.byref(rules), 0, 0):
        raise _error("seccomp")
