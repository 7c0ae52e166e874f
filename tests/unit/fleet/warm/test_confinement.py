"""What confines an app where the kernel lacks a part, and on the machine that these tests do not run on."""

import struct
from pathlib import Path

import pytest
from fresh_python import run_python

from app.fleet.warm.confinement import Kernel, detect, program, without

REFUSED_EPERM, NO_SUCH_CALL, ALLOWED = 0x00050001, 0x00050026, 0x7FFF0000
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def verdict(filter_: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What the kernel does with a system call: an interpreter of the instructions that the filter is made of."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = [struct.unpack_from("=HBBI", filter_, at) for at in range(0, len(filter_), 8)]
    accumulator = position = 0
    while True:
        code, yes, no, operand = instructions[position]
        position += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x06:
            return int(operand)
        else:
            tests = {
                0x15: accumulator == operand,
                0x35: accumulator >= operand,
                0x45: bool(accumulator & operand),
            }
            position += yes if tests[code] else no


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_means_the_same_on_both_machines(machine: str) -> None:
    number = {
        "x86_64": {"read": 0, "socket": 41, "pair": 53, "clone": 56, "kill": 62, "ptrace": 101, "limit": 302, "ioctl": 16},
        "aarch64": {"read": 63, "socket": 198, "pair": 199, "clone": 220, "kill": 129, "ptrace": 117, "limit": 261, "ioctl": 29},
    }[machine]  # fmt: skip
    filter_ = program(machine, signals=False)

    def of(call: str, *arguments: int) -> int:
        return verdict(filter_, MACHINES[machine], number[call], *arguments)

    assert of("read", 0, 0, 10) == of("kill", 1, 9) == ALLOWED
    assert of("ptrace") == of("socket", 2, 1) == of("socket", 1, 1) == REFUSED_EPERM
    assert (of("pair", 1, 1), of("pair", 1, 2 | 0o2000000)) == (ALLOWED, REFUSED_EPERM)
    assert (of("clone", 0x3D0F00), of("clone", 17), of("clone", 0x10000011)) == (
        ALLOWED,
        ALLOWED,
        REFUSED_EPERM,
    )
    assert (of("limit", 0, 7), of("limit", 4711, 7)) == (ALLOWED, REFUSED_EPERM)
    assert (of("ioctl", 1, 0x5401), of("ioctl", 1, 0x5412)) == (ALLOWED, REFUSED_EPERM)
    assert verdict(filter_, MACHINES[machine], 435) == NO_SUCH_CALL, "clone3: the C library then takes clone"
    assert verdict(filter_, 0x40000003, number["read"]) == NO_SUCH_CALL, "another architecture"
    assert verdict(filter_, MACHINES[machine], 0x40000000) == NO_SUCH_CALL
    assert verdict(program(machine, signals=True), MACHINES[machine], number["kill"], 1, 9) == REFUSED_EPERM


def test_a_hidden_file_is_left_out_of_the_folders_around_it(tmp_path: Path) -> None:
    for name in ("data/a", "keys/0.key", "keys/0.key.pub"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    shown = {
        path.relative_to(tmp_path).as_posix() for path in without(tmp_path, {tmp_path / "keys" / "0.key"})
    }
    assert shown == {"data", "keys/0.key.pub"}
    assert list(without(tmp_path / "data", {tmp_path / "keys" / "0.key"})) == [tmp_path / "data"]


def test_each_kernel_is_described_by_what_it_lacks() -> None:
    assert not Kernel(0, True).is_whole and "the client's key among them" in Kernel(0, True).describe()
    assert "without seccomp" in Kernel(7, False).describe()
    assert Kernel(0, False).describe().startswith("apps are not confined")
    assert Kernel(1, True).is_whole


@pytest.mark.skipif(not detect().seccomp, reason="this kernel has no seccomp")
def test_without_landlock_an_app_still_makes_no_connection_and_signals_nobody() -> None:
    program = """
import ctypes, errno, os, signal, socket, struct
from app.fleet.warm import confinement as c
# A kernel without Landlock: the call that asks for it is refused.
hide = c._instructions((c._LOAD, 0, 0, 0), (c._EQUAL, 0, 1, c.CREATE_RULESET), (c._RETURN, 0, 0, c._refuse(95)),
                       (c._RETURN, 0, 0, c._ALLOW))
c._libc.prctl(c.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
c._filter_calls(b"".join(hide))
assert c.detect().landlock == 0, c.detect()
c.confine(c.NOTHING_MORE)
for attempt in (socket.socket, lambda: os.kill(os.getppid(), 0), lambda: os.kill(-1, 0)):
    try:
        attempt()
    except PermissionError:
        continue
    raise AssertionError(attempt)
assert os.waitpid(os.spawnv(os.P_NOWAIT, "/bin/true", ["true"]), 0)[1] == 0
capabilities = [line.split()[1] for line in open("/proc/self/status") if line.startswith("Cap")]
assert set(capabilities) == {"0" * 16}, capabilities
print("confined")
"""
    assert run_python(program).strip() == "confined"
