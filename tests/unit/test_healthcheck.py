"""The health check of the images, against Flower's own health service and against none."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse

SCRIPT = Path(__file__).resolve().parents[2] / "docker" / "run" / "healthcheck"


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script as the image does, without site-packages."""
    return subprocess.run(
        [sys.executable, "-IS", str(SCRIPT), *arguments], capture_output=True, text=True, timeout=30
    )


@pytest.fixture
def service() -> Iterator[tuple[int, HealthServicer]]:
    """A gRPC health service on a free port, SERVING."""
    servicer = HealthServicer()
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    servicer.set("", HealthCheckResponse.SERVING)
    server.start()
    yield port, servicer
    server.stop(None).wait()


def test_serving_is_well(service: tuple[int, HealthServicer]) -> None:
    """Exit status 0, and silence."""
    done = check("grpc", str(service[0]))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("status", [HealthCheckResponse.NOT_SERVING, HealthCheckResponse.UNKNOWN])
def test_any_other_answer_is_not(service: tuple[int, HealthServicer], status: int) -> None:
    """The port alone is not enough."""
    port, servicer = service
    servicer.set("", status)
    done = check("grpc", str(port))
    assert done.returncode == 1
    assert "not serving" in done.stderr


def test_an_unknown_service_is_not_well() -> None:
    """A gRPC server without a health service answers with trailers alone."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        done = check("grpc", str(port))
        assert done.returncode == 1
        assert "not serving" in done.stderr
    finally:
        server.stop(None).wait()


def test_nobody_there() -> None:
    """One line with the port; every port counts."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        open_port, closed_port = listener.getsockname()[1], closed.getsockname()[1]
        assert check("tcp", str(open_port)).returncode == 0
        for arguments in (("tcp", str(open_port), str(closed_port)), ("grpc", str(closed_port))):
            done = check(*arguments)
            assert done.returncode == 1
            assert done.stderr.startswith(f"port {closed_port}: ")
            assert done.stderr.count("\n") == 1
