"""The systemd units, as files: what a process of Bouquet needs none of is taken from it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).resolve().parents[2] / "deploy" / "hosts" / "systemd"
UNITS = sorted(SYSTEMD.glob("*.service"))

CLOSED = {
    "NoNewPrivileges": "yes", "CapabilityBoundingSet": "", "LimitCORE": "0", "ProtectProc": "invisible",
    "ProtectSystem": "strict", "ProtectHome": "yes", "ProtectKernelTunables": "yes", "ProtectKernelModules": "yes",
    "ProtectKernelLogs": "yes", "ProtectControlGroups": "yes", "ProtectClock": "yes", "ProtectHostname": "yes",
    "PrivateTmp": "yes", "PrivateUsers": "yes", "PrivateDevices": "yes", "RemoveIPC": "yes",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX", "RestrictNamespaces": "yes", "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes", "LockPersonality": "yes", "SystemCallArchitectures": "native",
    "SystemCallErrorNumber": "EPERM", "UMask": "0077", "User": "bouquet", "StateDirectoryMode": "0700",
}  # fmt: skip


def settings(unit: Path) -> dict[str, list[str]]:
    """Name to values, in order."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^([A-Za-z]+)=(.*)$", unit.read_text(), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_closed(unit: Path) -> None:
    have = settings(unit)
    assert {name: have.get(name) for name in CLOSED} == {name: [value] for name, value in CLOSED.items()}
    allowed, denied, again = have["SystemCallFilter"]
    assert allowed == "@system-service @sandbox", "an allow list; Landlock is in @sandbox"
    assert denied.startswith("~") and "@privileged" in denied
    assert again == "capset", "what confines an app gives up its capabilities, and fails where it may not"
    assert int(have["LimitNOFILE"][0]) >= 4096, "a connection is a file"
    assert have["MemoryMax"] and int(have["TasksMax"][0]) <= 1024


def test_each_part_comes_back_and_survives_a_process_that_the_kernel_ended() -> None:
    """Out of memory, systemd by default stops the whole unit, and nothing could say whose memory it was."""
    for unit in UNITS:
        have = settings(unit)
        once = unit.stem == "bouquet-train"  # its own end is the end of the run
        assert have["Restart"] == ["on-abnormal" if once else "always"]
        assert once or have["StartLimitIntervalSec"] == ["0"]
        assert have["OOMPolicy"] == ["continue"]


def test_what_the_server_sends_reaches_the_server_only() -> None:
    have = settings(SYSTEMD / "bouquet-supernode.service")
    assert have["IPAddressDeny"] == ["any"]
    (allowed,) = have["IPAddressAllow"]
    assert allowed.split()[0] == "localhost" and len(allowed.split()) == 2 and "/" not in allowed


def test_a_gpu_opens_its_own_devices_only() -> None:
    have = settings(SYSTEMD / "gpu.conf")
    assert have == {
        "PrivateDevices": ["no"], "DevicePolicy": ["closed"], "DeviceAllow": ["char-nvidia* rw"],
    }  # fmt: skip


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_itself_finds_little_open(unit: Path) -> None:
    """Exposure of 2.0 at most, of 10; systemd 253 calls all up to 4.9 OK."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
