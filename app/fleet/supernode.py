"""``bouquet supernode``: Flower's SuperNode with its partition id, its identity and warm ClientApps."""

import json
import os
import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from app import process
from app.environment import DATA_VARIABLE, Device, set_variables, with_variables
from app.errors import UserError
from app.fleet import flower, logs
from app.fleet.deployment import ARTEFACTS_VARIABLE, DATASET_VARIABLE, SuperNodeSettings
from app.fleet.fleet_api.telling import Address, Sharing
from app.fleet.host import cores, memory, partition_ids, ports
from app.fleet.host.gpus import choose_gpu
from app.fleet.identity import hand_out, keys
from app.fleet.identity.client_certificates import client_certificate
from app.fleet.patches import tables
from app.fleet.patches.registry import Selection, check_switches, select
from app.fleet.patches.supernode.connection_errors import REFUSED, TRY_AGAIN
from app.fleet.site import allowed_apps

if TYPE_CHECKING:
    from app.fleet.warm.confinement import Reach
    from app.fleet.warm.executor import WarmExecutor

WARM_SHARE = 4  # a quarter of the free memory is for loaded apps


def node_config(settings: SuperNodeSettings) -> dict[str, Any]:
    """Flower's node config, which the ClientApp reads, under the names that Flower and its examples use."""
    data = {} if settings.dataset_path is None else {"dataset-path": str(settings.dataset_path.absolute())}
    return {"partition-id": int(settings.partition_id), "num-partitions": settings.num_clients, **data}


def health_address(settings: SuperNodeSettings) -> str | None:
    """host:port of the gRPC health service, which speaks plaintext; None for none."""
    return f"127.0.0.1:{settings.health_port}" if settings.health_port else None


def arguments(settings: SuperNodeSettings) -> list[str]:
    """The command line of Flower's SuperNode, where it runs the messages itself."""
    config = " ".join(f"{name}={json.dumps(value)}" for name, value in node_config(settings).items())
    # Several may share this network namespace.
    command = ["--superlink", settings.superlink, "--node-config", config, "--port", str(ports.free_port())]
    if address := health_address(settings):
        command += ["--health-server-address", address]
    command += ["--root-certificates", str(settings.ca)] if settings.ca else ["--insecure"]
    if settings.key:
        command += ["--auth-supernode-private-key", str(settings.key)]
    return command


def settle(settings: SuperNodeSettings) -> tuple[SuperNodeSettings, partition_ids.PartitionId]:
    """Find this client's partition id and threads, and fill them in.

    Raises:
        UserError: no partition id can be found.
    """
    partition = partition_ids.resolve(
        settings.num_clients, settings.partition_id, settings.pod_index, settings.pod_name, settings.leases
    )
    settled = replace(
        settings,
        partition_id=str(partition.id),
        threads=cores.threads_per_client(settings.threads, settings.sharing),
    )
    return settled, partition


def serve(settings: SuperNodeSettings, parent: socket.socket | None = None) -> None:
    """Be one client: find out which, say so, and :func:`run`."""
    settings, partition = settle(settings)
    print(
        f"partition-id {partition.id} of {settings.num_clients} (from {partition.source}),"
        f" {settings.threads} thread(s)",
        flush=True,
    )
    run(settings, parent, partition.lease)


def _variables(settings: SuperNodeSettings, gpu: str | None) -> dict[str, str]:
    """What Flower and the ClientApp must find in their environment."""
    # Set without a GPU as well: forks must know that none is there (``warm/parent.py``).
    variables = {"CUDA_VISIBLE_DEVICES": gpu or ""}
    # Of several GPUs only the chosen one is left, so its number counts no more.
    device = Device("cuda") if settings.device.number is not None else settings.device
    if data := with_variables({}).get(DATA_VARIABLE):
        variables[DATA_VARIABLE] = str(Path(data).absolute())  # an app has a working directory of its own
    if settings.dataset_path is not None:
        variables[DATASET_VARIABLE] = str(settings.dataset_path.absolute())
    return variables | {"BOUQUET_DEVICE": str(device)} | cores.sleep_soon(with_variables({}))


@dataclass
class SuperNodeContext:
    """What the patches of a SuperNode know of it.

    Attributes:
        superlink: host:port that it dials.
        ca: the federation's ca.crt; None without TLS.
        key: its node key; None without TLS.
        lost_after: seconds of silence after which the SuperLink takes it for lost.
        executor: runs its messages; None where Flower does.
        latest_error: why the SuperLink was not reached or did not let it in, in one line.
        exit_status: what it ends with because of that; 0 leaves it to Flower.
    """

    superlink: str
    ca: Path | None = None
    key: Path | None = None
    lost_after: int = 15
    executor: "WarmExecutor | None" = None
    latest_error: str = ""
    exit_status: int = 0

    def refused(self) -> str:
        """Why the SuperLink does not complete a TLS handshake with this client; empty where it does, or is not there."""
        if self.ca is None or self.key is None:
            return ""
        return (
            "" if not ports.is_refused(self.superlink, self.ca, self._certificate()) else self._unknown_key()
        )

    def wait(self) -> str:
        """Wait until the SuperLink listens, and return what :meth:`refused` does."""
        certificate = self._certificate() if self.key and self.ca else None
        return "" if ports.wait_for_superlink(self.superlink, self.ca, certificate) else self._unknown_key()

    def _certificate(self) -> tuple[bytes, bytes]:
        assert self.key is not None
        return client_certificate(keys.load_node_key(self.key)[0])

    def _unknown_key(self) -> str:
        assert self.key is not None
        return (
            f"{self.superlink}: the SuperLink refused this client: its key "
            f"{keys.fingerprint(keys.load_node_key(self.key)[1])} is not enrolled, or was revoked "
            "(`bouquet enroll NAME KEY.pub`), or this host's clock is wrong by more than an hour"
        )


def run(settings: SuperNodeSettings, parent: socket.socket | None, lease: IO[str] | None) -> None:
    """Dial the SuperLink and process its messages; returns only when the connection is over for good.

    Args:
        settings: how this client is run, as :func:`settle` filled them in.
        parent: control socket of a warm parent that the host's SuperNodes share; None starts one.
        lease: the lease of its partition id, where it has one; what hands out keys asks for it.
    """
    check_switches(settings.patches, tables.NAMES)
    process.forbid_inspection()
    gpu = choose_gpu(settings.device, settings.visible_gpus, int(settings.partition_id))
    flower.prepare_environment(_variables(settings, gpu))
    logs.escape_records()
    context = SuperNodeContext(settings.superlink, settings.ca, settings.key, settings.lost_after)
    with flower.imports():
        import flwr.client.grpc_rere_client.connection
        import flwr.supernode.start_client_internal  # noqa: F401 (what the SuperNode imports when it runs)

        selection = select(tables.SUPERNODE, context, settings.patches)
    _check_site(settings)
    # Before the key is read: the warm parent is a fork of this process, and apps are forks of that.
    shared = _sharing(settings, context)
    _begin_executor(settings, selection, context, gpu, parent, shared)
    if settings.key is not None and settings.key.suffix == hand_out.SUFFIX:
        context.key = hand_out.fetch(settings.key, int(settings.partition_id), lease)
        settings = replace(settings, key=context.key)
    if settings.ca is not None and settings.key is not None:
        keys.check_client_identity(settings.ca, settings.key)
    _wait_for_executor(selection, context)
    if allowed_apps.ANY not in settings.allowed_apps and context.executor is None:
        raise UserError(
            f"BOUQUET_ALLOWED_APPS cannot be honoured: patch warm is off ({selection.off.get('warm')}); "
            "switch it on, or set BOUQUET_ALLOWED_APPS=any"
        )
    _say_what_it_accepts(settings, selection)
    if settings.ca is not None:
        keys.watch_expiry([settings.ca], lambda line: print(f"warning: {line}", flush=True))
    selection.install()
    if shared is not None:
        shared.begin(_address(settings))
    try:
        if refusal := context.wait():
            context.latest_error, context.exit_status = refusal, REFUSED
            sys.exit(REFUSED)
        _run_flower(settings, warm=context.executor is not None)
        # Nobody asked for the end, but Flower would end with 0.
        context.exit_status = context.exit_status or TRY_AGAIN
        context.latest_error = context.latest_error or f"{settings.superlink}: the connection ended"
        sys.exit()
    except SystemExit:
        if context.latest_error:
            print(f"error: {context.latest_error}", file=sys.stderr, flush=True)
        if context.exit_status:
            sys.exit(context.exit_status)  # Flower ends with 0
        raise
    finally:
        if context.executor is not None:
            context.executor.stop()


def _check_site(settings: SuperNodeSettings) -> None:
    """Raise UserError for rules of a site that this client could not keep."""
    if settings.site_require and allowed_apps.ANY in settings.allowed_apps:
        raise UserError(
            "BOUQUET_SITE_REQUIRE cannot be honoured with BOUQUET_ALLOWED_APPS=any: an app can ignore the settings "
            "of its run; name the apps that you have read"
        )


def _address(settings: SuperNodeSettings) -> Address:
    assert settings.ca is not None and settings.key is not None
    return Address(settings.superlink, settings.ca, keys.load_node_key(settings.key))


def _sharing(settings: SuperNodeSettings, context: SuperNodeContext) -> Sharing | None:
    """What this client tells of itself; None where that is nothing, or nobody would know who tells it."""
    if (
        settings.ca is None
        or settings.key is None
        or "on" not in (settings.share_logs, settings.share_metrics)
    ):
        return None

    def usage() -> dict[str, int]:
        executor = context.executor
        counts = {"messages": executor.messages, "apps_loaded": executor.loaded} if executor else {}
        return {"memory_bytes": memory.private_bytes(os.getpid())} | counts

    return Sharing(logs=settings.share_logs == "on", usage=usage if settings.share_metrics == "on" else None)


def _begin_executor(
    settings: SuperNodeSettings,
    selection: Selection,
    context: SuperNodeContext,
    gpu: str | None,
    parent: socket.socket | None,
    shared: Sharing | None,
) -> None:
    """Start the warm parent where its patch is on."""
    if "warm" not in selection:
        return
    with flower.imports():
        from app.fleet.warm.executor import WarmExecutor, WarmSettings

    threads = settings.threads or 1
    executor = WarmExecutor(
        WarmSettings(
            node_config=node_config(settings),
            threads=threads,
            slots=0 if gpu is not None else max(1, cores.available_cores() // threads),
            slots_folder=settings.leases,
            persistent=settings.worker == "persistent" or (settings.worker == "auto" and gpu is not None),
            allowed_apps=settings.allowed_apps,
            site_require=settings.site_require,
            reach=_reach(settings),
            memory=_warm_memory(settings),
            output=shared.output if shared else None,
        ),
        given=parent,
    )
    executor.begin(fork=True)
    context.executor = executor


def _warm_memory(settings: SuperNodeSettings) -> int:
    """Bytes that the apps of this client may hold while they are loaded."""
    if settings.warm_memory is not None:
        return settings.warm_memory << 20
    return memory.available_memory().free // WARM_SHARE // settings.sharing


def _wait_for_executor(selection: Selection, context: SuperNodeContext) -> None:
    """Wait for the warm parent. Drop its patch where the parent does not start."""
    if context.executor is None:
        return
    from app.fleet.warm.peer import WarmStartError

    try:
        context.executor.wait_until_warm()
    except WarmStartError as error:
        context.executor = None
        selection.drop("warm", str(error) or "the warm parent ended")


def _reach(settings: SuperNodeSettings) -> "Reach | None":
    """What this client's apps may reach; None where they are not confined."""
    from app.fleet.warm.confinement import Reach

    if settings.confinement == "off":
        return None
    variables = with_variables({})
    reads = [
        variables.get(DATA_VARIABLE),
        variables.get(DATASET_VARIABLE),
        *settings.app_reads,
    ]
    writes = [variables.get(ARTEFACTS_VARIABLE)]
    hidden = (
        [str(path) for path in (settings.key, *settings.key.parent.glob("*.key"))] if settings.key else []
    )
    return Reach(*(tuple(str(Path(p).absolute()) for p in paths if p) for paths in (reads, writes, hidden)))


def _say_what_it_accepts(settings: SuperNodeSettings, selection: Selection) -> None:
    """The apps and the runs that this client lets in, and what its apps can reach. Raises UserError like the last."""
    print(allowed_apps.describe(settings.allowed_apps), flush=True)
    if settings.site_require:
        print(f"runs must have {settings.site_require}", flush=True)
    _say_what_confines(settings, selection)


def _say_what_confines(settings: SuperNodeSettings, selection: Selection) -> None:
    """One line on what an app can reach.

    Raises:
        UserError: confinement is required, and this kernel or this SuperNode cannot confine.
    """
    from app.fleet.warm.confinement import detect

    kernel = detect()
    if settings.confinement == "off":
        line = "apps are not confined: BOUQUET_CONFINEMENT=off"
    elif "warm" in selection:
        line = kernel.describe()
    else:
        line = f"apps are not confined: patch warm is off ({selection.off['warm']})"
    if settings.confinement == "required" and not (kernel.is_whole and "warm" in selection):
        raise UserError(f"BOUQUET_CONFINEMENT=required cannot be honoured: {line}")
    print(line, flush=True)


def _run_flower(settings: SuperNodeSettings, *, warm: bool) -> None:
    """Run Flower's SuperNode in this process. Its own command also serves the Runtime API, which only its SuperExec needs."""
    if not warm:
        from flwr.supernode.cli.flower_supernode import flower_supernode

        select(tables.SUPERNODE_HTTP, settings, settings.patches).install()
        set_variables({"OMP_NUM_THREADS": str(settings.threads)})
        sys.argv = ["flower-supernode", *arguments(settings)]
        flower_supernode()
        return
    from flwr.common.constant import ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.supernode.nodestate import NodeStateFactory
    from flwr.supernode.start_client_internal import start_client_internal

    start_client_internal(
        state_factory=NodeStateFactory(objectstore_factory=ObjectStoreFactory()),
        server_address=settings.superlink,
        node_config=node_config(settings),
        root_certificates=settings.ca.read_bytes() if settings.ca else None,
        insecure=settings.ca is None,
        transport=TRANSPORT_TYPE_GRPC_RERE,
        authentication_keys=keys.load_node_key(settings.key) if settings.ca and settings.key else None,
        isolation=ISOLATION_MODE_PROCESS,
        health_server_address=health_address(settings),
    )
