"""The command as a whole: completion, and errors that say where they are explained."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from container_engine import ROOT

from app.cli.main import Shell


def bouquet(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60
    )


@pytest.mark.parametrize("shell", list(Shell))
def test_each_shell_gets_its_completion(shell: str) -> None:
    done = bouquet("completion", shell)
    assert done.returncode == 0 and "_BOUQUET_COMPLETE" in done.stdout
    if (program := shutil.which(shell)) is not None:
        subprocess.run([program, "-n"], input=done.stdout, text=True, check=True, timeout=60)


def test_bash_completes_commands_and_options() -> None:
    script = bouquet("completion", "bash").stdout
    ask = (
        'COMP_WORDS=(bouquet {words}); COMP_CWORD={at}; _bouquet_completion bouquet; echo "${{COMPREPLY[@]}}"'
    )
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for words, at, found in (("wat", 1, "watch"), ("up --rou", 2, "--rounds"), ("pki a", 2, "all")):
        done = subprocess.run(
            ["bash", "-c", f"{script}\n{ask.format(words=words, at=at)}"],
            capture_output=True, text=True, cwd=ROOT, timeout=60, env={**os.environ, "PATH": path},
        )  # fmt: skip
        assert done.stdout.split() == [found], done


def test_an_unknown_shell_and_a_wrong_setting_name_the_way_out() -> None:
    done = bouquet("watch", "--run", "nothing", "--results", "/nowhere")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.endswith("(docs/troubleshooting.md#looking-at-runs)\n")
    assert bouquet("completion", "ksh").returncode == 2
