"""A copy of what `make run` reads of this checkout."""

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def copy_checkout(folder: Path, files: tuple[str, ...], bouquet: str) -> None:
    """Copy the apps, the scripts and ``files`` to ``folder``; `.env` asks for 4 clients, 2 rounds and `digits`.

    ``bouquet`` is the text of the command `bouquet` in its virtual environment, which counts as installed.
    """
    for name in ("app", "docker"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in files:
        shutil.copy(ROOT / name, folder)
    text = (ROOT / ".env").read_text()
    for name, value in {"NUM_CLIENTS": "4", "ROUNDS": "2", "DATASET": "digits"}.items():
        text = re.sub(rf"^{name}=.*$", f"{name}={value}", text, flags=re.M)
    (folder / ".env").write_text(text)
    add_command(folder, "bouquet", bouquet)
    (folder / ".venv" / ".locked").touch()


def add_command(folder: Path, name: str, text: str) -> None:
    """Put a command into the virtual environment of a copy."""
    commands = folder / ".venv" / "bin"
    commands.mkdir(parents=True, exist_ok=True)
    (commands / name).write_text(text)
    (commands / name).chmod(0o755)
