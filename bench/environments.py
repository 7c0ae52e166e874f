"""Virtual environments for what only the benchmark needs.

NVIDIA FLARE and Ray pin versions of their own, so each gets an environment under `.bouquet/bench-venv`.
It lies on top of the one that runs the benchmark: torch is the same for all contenders, and is not
installed three times.
"""

import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.processes import BenchError

ROOT = Path(__file__).parent.parent
VENVS = ROOT / ".bouquet" / "bench-venv"
REQUIREMENTS = Path(__file__).parent / "requirements.txt"
INSTALL_TIMEOUT_S = 900


@dataclass(frozen=True)
class Environment:
    """One layered virtual environment, made when it is first needed."""

    name: str
    requirement: str
    """Name of the requirement in `requirements.txt`."""

    @property
    def path(self) -> Path:
        """Its directory."""
        return VENVS / self.name

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        """Where its own packages are."""
        return packages(self.path)

    def missing(self) -> str:
        """Why it cannot be used; empty when it is ready."""
        return self._problem

    @cached_property
    def _problem(self) -> str:
        try:
            layer(self.path, [_pin(self.requirement)])
        except BenchError as error:
            return str(error)
        return ""


def packages(environment: Path) -> Path:
    """Where the packages of a virtual environment are."""
    return environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def layer(path: Path, requirements: Sequence[str]) -> None:
    """Have a virtual environment on top of this one with some packages more. Raises BenchError."""
    ready, wanted = path / "ready", "\n".join(requirements)
    if ready.exists() and ready.read_text(encoding="utf-8") == wanted:
        return
    _run([sys.executable, "-m", "venv", "--clear", str(path)])
    beneath = packages(path) / "zz_beneath.pth"
    beneath.write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    _run([str(path / "bin" / "python"), "-m", "pip", "install", "--quiet", *requirements])
    ready.write_text(wanted, encoding="utf-8")


RAY = Environment("ray", "flwr[simulation]")
FLARE = Environment("nvflare", "nvflare")


def _pin(name: str) -> str:
    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        if line.split("==")[0].strip() == name:
            return line.strip()
    raise BenchError(f"{name} is not in {REQUIREMENTS}")


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise BenchError(f"`{' '.join(command[-2:])}` took more than {INSTALL_TIMEOUT_S} s") from None
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
        raise BenchError(f"`{' '.join(command[-2:])}` failed: {last[0][:160]}")
