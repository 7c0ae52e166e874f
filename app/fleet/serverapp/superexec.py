"""Flower's SuperExec, which starts a ServerApp for each run, with an eye on how it ends.

``python -P -m app.fleet.serverapp.superexec`` takes the arguments of ``flower-superexec``. Flower's own notices after a
minute, by missing heartbeats, that a ServerApp has ended without a word: it was killed, or the app called ``os._exit``.

Read in flwr 1.39.0: ``supercore/superexec``.
"""

import os
import subprocess
import sys
import threading
from contextlib import suppress
from importlib import import_module
from typing import Any

from app.environment import read
from app.fleet import flower
from app.fleet.deployment import RunRules
from app.fleet.serverapp import program

with flower.imports():
    from flwr.common.constant import SubStatus
    from flwr.proto.runtime_pb2 import PushTaskOutputRequest
    from flwr.supercore.cli.flower_superexec import flower_superexec
    from flwr.supercore.constant import TaskType
    from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
    from flwr.supercore.runtime import RuntimeHttpClient
    from flwr.supercore.superexec.executor import LaunchResult
    from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
    from flwr.supercore.tls import validate_and_resolve_root_certificates

LONGEST_END_S = 5.0


class Executor(SubprocessExecutor):
    """Starts ``program.py`` where Flower starts ``flwr-serverapp``, for so many runs at once as the deployment wants."""

    def __init__(self) -> None:
        self._most = read(RunRules).runs_at_once
        self._serverapps: list[subprocess.Popen[bytes]] = []

    def get_eligible_capacity(
        self, supported_task_types: set[TaskType], **kwargs: Any
    ) -> tuple[set[TaskType], set[str]]:
        """What may be started now. What may not stays pending, in the order in which it came."""
        tasks, fabs = super().get_eligible_capacity(supported_task_types, **kwargs)
        self._serverapps = [process for process in self._serverapps if process.poll() is None]
        full = len(self._serverapps) >= self._most
        return tasks - ({TaskType.SERVER_APP} if full else set()), fabs

    def launch(self, spec: Any) -> LaunchResult:
        """Start the process for a task, and watch it."""
        if spec.task_type != TaskType.SERVER_APP:
            return super().launch(spec)
        arguments = ["--runtime-api-address", spec.runtime_api_address, "--token", spec.token]
        if spec.insecure:
            arguments.append("--insecure")
        elif spec.root_certificates_path is not None:
            arguments += ["--root-certificates", spec.root_certificates_path]
        if spec.parent_pid is not None:
            arguments += ["--parent-pid", str(spec.parent_pid)]
        if spec.runtime_dependency_install:
            arguments.append("--allow-runtime-dependency-installation")
        output = subprocess.DEVNULL if spec.suppress_output else None
        ended, end = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-P", program.__file__, str(end), *arguments],
            pass_fds=[end], stdout=output, stderr=output,
        )  # fmt: skip
        os.close(end)
        self._serverapps.append(process)
        threading.Thread(target=_watch, args=(ended, process, spec), daemon=True).start()
        return LaunchResult.accepted()


def _watch(ended: int, process: "subprocess.Popen[bytes]", spec: Any) -> None:
    """Report the end of a process that has not done so itself.

    Args:
        ended: is readable when the process has reported its end, and closed when it has none to report.
        process: the process.
        spec: Flower's description of its task.
    """
    with os.fdopen(ended, "rb") as reports:
        if reports.read(1):
            return
    status = 0
    with suppress(subprocess.TimeoutExpired):
        status = process.wait(LONGEST_END_S)
    how = f"was killed by signal {-status}" if status < 0 else "ended"
    certificates = validate_and_resolve_root_certificates(spec.root_certificates_path, spec.insecure)
    client = RuntimeHttpClient.from_server_address(
        spec.runtime_api_address,
        spec.insecure,
        certificates,
        [
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            RuntimeTokenHttpInterceptor(token=spec.token),
        ],
    )
    with suppress(Exception):
        client.PushTaskOutput(
            PushTaskOutputRequest(
                sub_status=SubStatus.FAILED,
                details=f"the ServerApp's process {how} before the app was done",
            )
        )
    client.close()


def main() -> None:
    """Be the SuperExec."""
    factory: Any = import_module("flwr.supercore.superexec.executor.factory")
    factory.SubprocessExecutor = Executor
    sys.argv = ["flower-superexec", *sys.argv[1:]]
    flower_superexec()


if __name__ == "__main__":
    main()
