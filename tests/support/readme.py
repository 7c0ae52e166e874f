"""What a person types who follows the README."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def blocks(heading: str) -> list[str]:
    """The shell blocks of a section of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    _, found, rest = text.partition(f"\n## {heading}\n")
    assert found, f"README.md has no section {heading}"
    return re.findall(r"^```sh\n(.*?)^```", rest.partition("\n## ")[0], flags=re.DOTALL | re.MULTILINE)


def follow(block: str, folder: Path, environment: Mapping[str, str], timeout: float) -> str:
    """Type a block in ``folder``, as it stands; what was printed. A command that fails ends it."""
    found = {**os.environ, **environment}
    path = os.pathsep.join([str(Path(sys.executable).parent), found["PATH"]])
    done = subprocess.run(
        ["sh", "-euc", block],
        cwd=folder,
        env=found | {"PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
