"""Virtual environments for what only the benchmark needs.

NVIDIA FLARE and Ray pin versions of their own, so each gets an environment under `.bouquet/bench-venv`.
It lies on top of the one that runs the benchmark: torch is the same for all contenders, and is not
installed three times.
"""

import subprocess
import sys
import sysconfig
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
        return self.path / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"

    def missing(self) -> str:
        """Why it cannot be used; empty when it is ready."""
        return self._problem

    @cached_property
    def _problem(self) -> str:
        ready = self.path / "ready"
        requirement = _pin(self.requirement)
        if ready.exists() and ready.read_text(encoding="utf-8") == requirement:
            return ""
        try:
            _run([sys.executable, "-m", "venv", "--clear", str(self.path)])
            layer = self.site_packages / "zz_beneath.pth"
            layer.write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
            _run([str(self.python), "-m", "pip", "install", "--quiet", requirement])
        except BenchError as error:
            return str(error)
        ready.write_text(requirement, encoding="utf-8")
        return ""


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
