"""Holds a ServerApp at a call of a function, so that a test can end it there.

Python imports this module at its start where this folder is in ``PYTHONPATH``. ``HOLD_AT`` is the end of a file's path,
a colon and the function's name, ``HOLD_CALL`` the number of the call. The file ``HOLD_MARK`` says that the process is held.
"""

import os
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

_calls = 0


def _hold(frame: FrameType, event: str, _argument: Any) -> None:
    global _calls
    file, _, function = os.environ["HOLD_AT"].partition(":")
    if event == "call" and frame.f_code.co_name == function and frame.f_code.co_filename.endswith(file):
        _calls += 1
        if _calls == int(os.environ["HOLD_CALL"]):
            Path(os.environ["HOLD_MARK"]).touch()
            time.sleep(600)


if "HOLD_AT" in os.environ and any(word.endswith("serverapp/program.py") for word in sys.orig_argv):
    sys.setprofile(_hold)
