"""``bouquet supernode``: Flower's SuperNode with its partition id, its identity and warm ClientApps."""

import os
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from logging import WARNING
from pathlib import Path
from typing import Any

from app.errors import UserError
from app.fleet import apps, cores, flower, keys, partition_id
from app.fleet.gpus import choose_gpu


@dataclass(frozen=True)
class SuperNodeSettings:
    """How one client is run.

    Attributes:
        superlink: host:port of the SuperLink's Fleet API.
        num_partitions: partitions (clients) of the federation.
        partition: this client's partition id.
        ca: the federation's CA certificate; None for plaintext.
        key: this client's private key (EC, OpenSSH format); None without node authentication.
        health_address: host:port of the gRPC health service; None for none.
        local_replicas: clients that share this host's cores.
        threads: PyTorch threads per message.
        leases: folder that the replicas of this host share; None when they share none.
        allowed_apps: app hashes this client accepts; empty for any.
        worker: ``fork`` a process per message, one ``persistent`` worker per run, or ``auto``.
    """

    superlink: str
    num_partitions: int
    partition: int
    ca: Path | None = None
    key: Path | None = None
    health_address: str | None = None
    local_replicas: int = 1
    threads: int = 1
    leases: Path | None = None
    allowed_apps: frozenset[str] = field(default_factory=frozenset)
    worker: str = "auto"

    @property
    def node_config(self) -> dict[str, Any]:
        """Flower's node config: what the ClientApp reads."""
        return {"partition-id": self.partition, "num-partitions": self.num_partitions}


def _free_port() -> int:
    """A port of loopback for the stock SuperNode's Runtime API: several may share this network namespace."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def arguments(settings: SuperNodeSettings) -> list[str]:
    """The command line of stock ``flower-supernode``, for when the warm path cannot start."""
    node_config = " ".join(f"{name}={value}" for name, value in settings.node_config.items())
    command = ["--superlink", settings.superlink, "--node-config", node_config, "--port", str(_free_port())]
    if settings.health_address:
        command += ["--health-server-address", settings.health_address]
    command += ["--root-certificates", str(settings.ca)] if settings.ca else ["--insecure"]
    if settings.key:
        command += ["--auth-supernode-private-key", str(settings.key)]
    return command


def _run_stock(settings: SuperNodeSettings, reason: str) -> None:
    from flwr.supercore import log

    if settings.allowed_apps:
        raise UserError(f"BOUQUET_ALLOWED_APPS cannot be honoured: the warm path did not start ({reason})")
    log(
        WARNING,
        "Every message starts a new Python process: the warm path did not start (%s). Same results, slower.",
        reason,
    )
    command = shutil.which("flower-supernode") or str(Path(sys.executable).with_name("flower-supernode"))
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    os.execv(command, ["flower-supernode", *arguments(settings)])


def serve(
    environment: Mapping[str, str], *, key: Path | None, parent: socket.socket | None = None, **given: Any
) -> None:
    """Be one client: find out which, say so, and :func:`run`. The arguments are those of :func:`settings_from`."""
    settings, partition = settings_from(environment, key=key, **given)
    print(
        f"partition-id {partition.id} of {settings.num_partitions} (from {partition.source}),"
        f" {settings.threads} thread(s)",
        flush=True,
    )
    run(settings, parent)


def run(settings: SuperNodeSettings, parent: socket.socket | None = None) -> None:
    """Dial the SuperLink and process its messages; returns only when the connection is over for good.

    Args:
        settings: how this client is run.
        parent: control socket of a warm parent that the host's SuperNodes share; None starts one.
    """
    flower.prepare_environment()
    if settings.ca is not None:
        if settings.key is None:
            raise UserError("no key: give --key (BOUQUET_NODE_KEY); `bouquet node-key` makes one")
        keys.check_client_identity(settings.ca, settings.key)
    cores.sleep_soon(os.environ)
    gpu = choose_gpu(os.environ, settings.partition)
    # Without one as well: what forks must know that no GPU is there (``warm/parent.py``).
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu or ""
    if os.environ.get("BOUQUET_DEVICE", "").startswith("cuda:"):
        os.environ["BOUQUET_DEVICE"] = "cuda"  # the only one that is left
    if os.environ.get("BOUQUET_WARM", "1") == "0":
        _run_stock(settings, "BOUQUET_WARM=0")

    with flower.imports():
        from app.fleet import model_cache, refusals, small_objects, waiting
        from app.fleet.warm import executor as warm
        from app.fleet.warm.peer import WarmStartError

    if reason := warm.unsupported():
        _run_stock(settings, reason)
    executor = warm.WarmExecutor(
        warm.WarmSettings(
            node_config=settings.node_config,
            threads=settings.threads,
            slots=0 if gpu is not None else max(1, cores.available_cores() // settings.threads),
            slots_folder=settings.leases,
            persistent=settings.worker == "persistent" or (settings.worker == "auto" and gpu is not None),
            allowed_apps=settings.allowed_apps,
        ),
        given=parent,
    )
    try:
        executor.start(fork=True)
    except WarmStartError as error:
        _run_stock(settings, str(error) or "the warm parent ended")

    # Not earlier: the warm parent is a fork of this process while it has one thread, and needs no key.
    authentication_keys = None
    if settings.ca is not None and settings.key is not None:
        keys.watch_expiry([settings.ca], lambda line: print(f"warning: {line}", flush=True))
        authentication_keys = keys.load_node_key(settings.key)

    from flwr.common.constant import ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.supernode import start_client_internal as internal
    from flwr.supernode.nodestate import NodeStateFactory

    small_objects.install_supernode(internal)
    warm.install(executor)
    model_cache.install(internal)
    waiting.install(internal)
    why = refusals.install(internal, settings.superlink)
    waiting.wait_for_port(settings.superlink, settings.ca)
    try:
        internal.start_client_internal(
            state_factory=NodeStateFactory(objectstore_factory=ObjectStoreFactory()),
            server_address=settings.superlink,
            node_config=settings.node_config,
            root_certificates=settings.ca.read_bytes() if settings.ca else None,
            insecure=settings.ca is None,
            transport=TRANSPORT_TYPE_GRPC_RERE,
            authentication_keys=authentication_keys,
            isolation=ISOLATION_MODE_PROCESS,
            health_server_address=settings.health_address,
        )
    except SystemExit:
        if reason := why():
            print(f"error: {reason}", file=sys.stderr, flush=True)
        raise
    finally:
        executor.stop()


def settings_from(
    environment: Mapping[str, str], *, key: Path | None, **given: Any
) -> tuple[SuperNodeSettings, partition_id.PartitionId]:
    """Read a client's settings at the edge: the command line's values over the environment's.

    ``key`` may be a folder that holds ``<partition id>.key`` for each replica of a host.

    Raises:
        UserError: a value cannot be used; the message names its setting.
    """
    clients = environment.get("NUM_CLIENTS", "") or "1"
    if not clients.isdigit() or int(clients) < 1:
        raise UserError(f"NUM_CLIENTS={clients!r} is not a whole number of at least 1")
    num_partitions = int(clients)
    partition = partition_id.resolve(environment, num_partitions)
    leases = environment.get("BOUQUET_LEASES", "")
    replicas = environment.get("BOUQUET_LOCAL_REPLICAS", "") or (str(num_partitions) if leases else "1")
    if not replicas.isdigit():
        raise UserError(f"BOUQUET_LOCAL_REPLICAS={replicas!r} is not a whole number")
    worker = environment.get("BOUQUET_WORKER", "") or "auto"
    if worker not in ("auto", "fork", "persistent"):
        raise UserError(f"BOUQUET_WORKER={worker!r} is not one of auto, fork, persistent")
    settings = SuperNodeSettings(
        num_partitions=num_partitions,
        partition=partition.id,
        local_replicas=int(replicas),
        threads=cores.threads_per_client(environment, int(replicas)),
        leases=Path(leases) if leases else None,
        allowed_apps=apps.parse_allowed(environment.get("BOUQUET_ALLOWED_APPS", "")),
        worker=worker,
        key=key / f"{partition.id}.key" if key is not None and key.is_dir() else key,
        **given,
    )
    return settings, partition
