"""A Fleet API whose thread dies takes the process with it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
PROGRAM = """
import time
from app.fleet.fleet_api.calls import FleetCalls
from app.fleet.fleet_api.health import METHOD, Health
from app.fleet.fleet_api.server import Endpoint, FleetServer
health = Health(lambda: None)
calls = FleetCalls({}, [], {METHOD: health.answer}, certified=False)
server = FleetServer(Endpoint("127.0.0.1:0", None, None, None, 1024, 0), calls, health)
print(server.start(), flush=True)
END
time.sleep(20)
"""


def _run(end: str) -> "subprocess.CompletedProcess[str]":
    program = PROGRAM.replace("END", end)
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_a_fleet_api_that_dies_ends_the_process_with_one_line() -> None:
    done = _run("server._loop.call_soon_threadsafe(server._loop.stop)")
    assert done.returncode == 70
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "the Fleet API has died (RuntimeError: Event loop stopped" in line


def test_a_fleet_api_that_is_stopped_does_not() -> None:
    done = _run("server.stop(1); time.sleep(1); print('still here', flush=True); raise SystemExit(0)")
    assert done.returncode == 0 and "still here" in done.stdout and not done.stderr


def test_a_port_that_is_taken_is_said_by_start() -> None:
    again = "FleetServer(Endpoint(f'127.0.0.1:{port}', None, None, None, 1024, 0), calls, health).start()"
    done = _run(f"port = server._listening.result().rpartition(':')[2]; {again}")
    assert done.returncode == 1 and "RuntimeError" in done.stderr
