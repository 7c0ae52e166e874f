"""The settings of a deployment: one frozen object for each kind of process, read once when it starts.

``app/environment.py`` reads them. ``up``, ``simulate``, ``prepare`` and ``train`` also read `.env`, when the current folder
is Bouquet's own checkout. The `.env` of any other folder belongs to another app. A SuperLink and a SuperNode get their
environment from Compose, systemd or Kubernetes.

These are plain dataclasses. Pydantic would accept `` 3`` and ``1_0`` as whole numbers, and pydantic-settings would be a
second reader of the command line beside Typer.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from app.environment import (
    ADDRESS,
    CONTROL,
    DATA_VARIABLE,
    DEVICE,
    NUMBER,
    PATCHES_MEANING,
    PATH,
    PORT,
    REPLIES,
    RESULTS_VARIABLE,
    SECONDS,
    UNIX,
    WORDS,
    AppEnvironment,
    Device,
    Form,
    is_whole,
    one_of,
    setting,
    whole,
)
from app.errors import UserError
from app.fleet.site.allowed_apps import THE_OWN, AllowedApps, parse_allowed
from app.fleet.site.requirements import NO_REQUIREMENTS, Requirements, parse_requirements

PACKAGE = Path(__file__).resolve().parents[2]  # where `import app` finds this package
HASHES = Form("HASHES", parse_allowed)
WORKERS = one_of("auto", "fork", "persistent")
REQUIRED, OPTIONAL = "required", "optional"
CLIENTS_OPTIONS = ("--clients", "-n")
LOST_MEANING = "Seconds after which the server takes a client that is silent for lost."
APPS_MEANING = "Apps that a client may run: hashes (`bouquet app-hash`), own, or any."
CLIENTS_MEANING = "Number of clients, and so of partitions."
NO_PAGE = "none"
DATASET_VARIABLE, ARTEFACTS_VARIABLE, RUN_FOLDER_VARIABLE = (
    "BOUQUET_DATASET",
    "BOUQUET_ARTEFACTS",
    "BOUQUET_RUN_FOLDER",
)
STORE = Path(".bouquet") / "data" / "store"
INSECURE_MEANING = "Plaintext, no node authentication: for loopback and tests."
APP_MEANING = "The Flower app: its folder, or its bundle (.fab)."
DATASET_PATH_MEANING = "A folder or file that an app which is not Bouquet's gets as its data."
MODE_MEANING = "How the federation was started; stands in the results."
CERTIFICATES_MEANING = "Folder with ca.crt, server.crt, server.key."
CA_MEANING = "The federation's ca.crt."
HEALTH_MEANING = "Port on 127.0.0.1 that health checks ask; 0: none."
KEY_MEANING = "This client's private key, or the socket of `bouquet pki hand-out`."
CONFIG_MEANING = 'Run-config pairs: "local-epochs=2".'
CONTROL_MEANING = "Where the SuperLink's Control API is: host:port, or unix:/FILE."
STATE_MEANING = "Folder for what survives a restart."
BASE_IMAGE = "debian:bookworm-slim"
POD_NAME_MEANING = "Kubernetes: name of the pod, which ends in its ordinal."
LATEST = "latest"
RUN_MEANING = "The run: its name in the results folder, or its folder."
RUN_DATA_MEANING = "The run's data store; default: the one under .bouquet/data that it was trained on."
MODEL_MEANING = "best, last, or a safetensors file."
SERVER_NAMES_MEANING = "Names and addresses that clients dial, separated by spaces."


def dotenv() -> dict[str, str]:
    """The variables of `.env`, when the current folder is Bouquet's own checkout.

    Raises:
        UserError: the file cannot be read.
    """
    file = Path.cwd() / ".env"
    if file.parent != PACKAGE or not file.is_file():
        return {}
    from dotenv import dotenv_values

    try:
        return {name: value or "" for name, value in dotenv_values(file, interpolate=False).items()}
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); write NAME=value lines in UTF-8") from None


@dataclass(frozen=True)
class RunRules:
    """How many runs there are at once, and when a phase of an app that is not Bouquet's goes on.

    Bouquet's own app has run settings of the names of the latter.
    """

    runs_at_once: int = setting(
        "BOUQUET_RUNS_AT_ONCE", "Runs at the same time; others wait in the queue.", 4, whole(1), ()
    )

    min_replies: int | float | None = setting(
        "BOUQUET_MIN_REPLIES",
        "Of another app: clients that a phase needs, a number or a fraction; empty: it waits for all.",
        None,
        REPLIES,
        (),
    )
    grace: float = setting(
        "BOUQUET_GRACE",
        "Of another app: seconds that a phase waits for the rest when it has those.",
        600,
        SECONDS,
        (),
    )
    round_deadline: float = setting(
        "BOUQUET_ROUND_DEADLINE", "Of another app: seconds after which a phase goes on.", 3600, SECONDS, ()
    )


def parse_metrics(text: str) -> str:
    """``host:port``; a port alone is one of loopback. Raises ValueError with what it may be."""
    if is_whole(text):
        text = f"127.0.0.1:{text}"
    host, _, port = text.rpartition(":")
    if not host or not is_whole(port) or not 0 < int(port) < 65536:
        raise ValueError("a port of 127.0.0.1, or host:port, such as 9097 or 10.0.0.5:9097")
    return text


@dataclass(frozen=True)
class WatchedSettings:
    """What watches a SuperLink."""

    metrics: str = setting(
        "BOUQUET_METRICS",
        "host:port where the SuperLink serves metrics for Prometheus; a port alone is on 127.0.0.1; empty: none.",
        "",
        Form("[HOST:]PORT", parse_metrics),
    )


def parse_page(text: str) -> str:
    """``host:port``, or ``none``. Raises ValueError with what it may be."""
    if text == NO_PAGE:
        return text
    try:
        return parse_metrics(text)
    except ValueError as error:
        raise ValueError(f"{error}, or {NO_PAGE}") from None


@dataclass(frozen=True)
class PageSettings:
    """What TensorBoard and MLflow are told of runs."""

    tensorboard: str = setting(
        "BOUQUET_TENSORBOARD",
        "host:port of TensorBoard's page; a port alone is on 127.0.0.1; none: no page.",
        "127.0.0.1:6006",
        Form("[HOST:]PORT|none", parse_page),
    )
    mlflow: str = setting("MLFLOW_TRACKING_URI", "The MLflow server that gets the runs; empty: none.", "")
    experiment: str = setting("MLFLOW_EXPERIMENT_NAME", "MLflow's experiment for them.", "bouquet")


@dataclass(frozen=True)
class SuperLinkSettings(WatchedSettings, RunRules):
    """How the SuperLink is run. The Control API always listens on loopback."""

    fleet_address: str = setting("", "Where SuperNodes dial in.", "0.0.0.0:9092", ADDRESS)
    control_port: int = setting("", "Port of the Control API on 127.0.0.1.", 8000, PORT)
    control: str = setting(
        "BOUQUET_CONTROL", "unix:/FILE: the Control API listens there too.", "", CONTROL, ()
    )
    certificates: Path | None = setting("BOUQUET_CERTIFICATES", CERTIFICATES_MEANING, None, PATH)
    state: Path | None = setting("BOUQUET_STATE", STATE_MEANING, None, PATH)
    health_port: int = setting("BOUQUET_HEALTH_PORT", HEALTH_MEANING, 0, PORT)
    client_certificates: str = setting(
        "CLIENT_CERTIFICATES", "optional lets stock SuperNodes in.", REQUIRED, one_of(REQUIRED, OPTIONAL)
    )
    insecure: bool = setting("", INSECURE_MEANING, False)
    patches: str = setting("BOUQUET_PATCHES", PATCHES_MEANING, "", options=())

    def __post_init__(self) -> None:
        _check_transport(self.insecure, self.certificates, "--certificates (BOUQUET_CERTIFICATES)")
        if self.certificates is not None and self.state is None:
            raise UserError("--certificates needs --state (BOUQUET_STATE): a folder for the list of members")

    @property
    def control_socket(self) -> Path | None:
        """Where the Control API listens beside its port."""
        return Path(self.control.removeprefix(UNIX)) if self.control.startswith(UNIX) else None


@dataclass(frozen=True)
class ClientSettings:
    """How a client works on this host: alone, or as one of several."""

    threads: int | None = setting(
        "BOUQUET_THREADS", "Threads per client; empty: its share of the cores.", None, whole(1)
    )
    worker: str = setting(
        "BOUQUET_WORKER", "A process per message (fork) or per run (persistent).", "auto", WORKERS
    )
    patches: str = setting("BOUQUET_PATCHES", PATCHES_MEANING, "", options=())
    allowed_apps: AllowedApps = setting(
        "BOUQUET_ALLOWED_APPS", APPS_MEANING, THE_OWN, HASHES, former="ALLOWED_APPS"
    )
    site_require: Requirements = setting(
        "BOUQUET_SITE_REQUIRE",
        "What runs must keep to here: privacy=local local-epsilon<=2.",
        NO_REQUIREMENTS,
        Form("REQUIREMENTS", parse_requirements),
    )
    confinement: str = setting(
        "BOUQUET_CONFINEMENT",
        "Apps reach their data and their channel only: auto, where the kernel can; required; off.",
        "auto",
        one_of("auto", "required", "off"),
    )
    app_reads: tuple[str, ...] = setting(
        "BOUQUET_APP_READS", "More folders that apps may read, separated by spaces.", (), WORDS
    )
    warm_memory: int | None = setting(
        "BOUQUET_WARM_MEMORY",
        "MiB that each client's loaded apps may hold; empty: its share of a quarter of the free memory.",
        None,
        whole(),
    )
    lost_after: int = setting("BOUQUET_LOST_AFTER", LOST_MEANING, 15, whole(10, 3600))
    device: Device = setting("BOUQUET_DEVICE", "Where a client trains.", Device(), DEVICE)
    visible_gpus: str | None = setting(
        "CUDA_VISIBLE_DEVICES", "GPUs that clients may use; empty: none.", options=(), empty_counts=True
    )


@dataclass(frozen=True)
class SuperNodeSettings(ClientSettings):
    """How one client is run."""

    superlink: str = setting("SUPERLINK", "host:port of the SuperLink.", "127.0.0.1:9092", ADDRESS)
    ca: Path | None = setting("BOUQUET_CA", CA_MEANING, None, PATH)
    key: Path | None = setting("BOUQUET_NODE_KEY", KEY_MEANING, None, PATH)
    health_port: int = setting("BOUQUET_HEALTH_PORT", HEALTH_MEANING, 9095, PORT)
    insecure: bool = setting("", INSECURE_MEANING, False)
    num_clients: int = setting("NUM_CLIENTS", CLIENTS_MEANING, 1, whole(1), CLIENTS_OPTIONS)
    partition_id: str = setting("PARTITION_ID", "This client's partition; empty to lease one.", "")
    pod_index: str = setting("POD_INDEX", "Kubernetes: ordinal of the pod.", "", options=())
    pod_name: str = setting("POD_NAME", POD_NAME_MEANING, "", options=())
    leases: Path | None = setting("BOUQUET_LEASES", "Folder that the clients of a host share.", None, PATH)
    app: Path | None = setting(
        "APP", "What `own` means in BOUQUET_ALLOWED_APPS; empty: the image's.", None, PATH
    )
    dataset_path: Path | None = setting(DATASET_VARIABLE, DATASET_PATH_MEANING, None, PATH)
    share_logs: str = setting(
        "BOUQUET_SHARE_LOGS", "Whether the server can show this client's log.", "off", one_of("on", "off")
    )
    share_metrics: str = setting(
        "BOUQUET_SHARE_METRICS",
        "Whether the server is told this client's memory and counts of messages.",
        "on",
        one_of("on", "off"),
    )
    local_clients: int | None = setting(
        "BOUQUET_LOCAL_CLIENTS",
        "Clients on this host's cores; empty: all with BOUQUET_LEASES.",
        None,
        whole(1),
    )

    def __post_init__(self) -> None:
        _check_transport(self.insecure, self.ca, "--ca (BOUQUET_CA) with --key (BOUQUET_NODE_KEY)")
        if self.ca is not None and self.key is None:
            raise UserError("no key: give --key (BOUQUET_NODE_KEY); `bouquet node-key` makes one")
        _check_dataset(self.dataset_path)

    @property
    def sharing(self) -> int:
        """Clients that share the cores of this host."""
        return self.local_clients or (self.num_clients if self.leases else 1)


@dataclass(frozen=True)
class DataSettings:
    """Which data a federation learns from, and how it is divided."""

    dataset: str = setting("DATASET", "Hub name, folder, or digits. Default: CIFAR-10.", "")
    dataset_folder: str = setting("DATASET_FOLDER", "A folder in place of DATASET.", "", options=())
    partitioner: str = setting("PARTITIONER", "iid, dirichlet, pathological, shard, linear, ...", "iid")
    alpha: float | None = setting("ALPHA", "dirichlet: the smaller, the more uneven.", None, NUMBER)
    classes_per_partition: int | None = setting("CLASSES_PER_PARTITION", "pathological.", None, whole(1))
    shards_per_partition: int | None = setting("SHARDS_PER_PARTITION", "shard.", None, whole(1))
    seed: int = setting("DATA_SEED", "Seed of the partitioning and the 80/20 split.", 42, whole())
    num_clients: int = setting("NUM_CLIENTS", CLIENTS_MEANING, 10, whole(1), CLIENTS_OPTIONS)

    @property
    def source(self) -> str:
        """The data set that was asked for; empty for the default."""
        return self.dataset or self.dataset_folder


@dataclass(frozen=True)
class PrepareSettings(DataSettings):
    """What ``bouquet prepare`` makes."""

    app: Path | None = setting(
        "APP", "The Flower app: another than Bouquet's gets no data by default.", None, PATH, ()
    )
    out: Path = setting(DATA_VARIABLE, "Folder of the data store.", STORE, PATH)
    subset: str = setting("", "Configuration of a hub data set that has several.", "")
    image_column: str = setting("", "Column of the pictures; found by itself when there is one.", "")
    label_column: str = setting("", "Column of the labels; found by itself.", "")
    image_size: int | None = setting("", "Edge in pixels to resize pictures to.", None, whole(1))
    classes: str = setting("", "Class names in their order, for an own image folder: a,b,c.", "")
    tolerance: int = setting("TOLERANCE", "Unreadable pictures that may be left out.", 0, whole())
    force: bool = setting("", "Replace a store made otherwise.", False)


@dataclass(frozen=True)
class RunRequest:
    """What is run: an app, and its rounds."""

    rounds: int | None = setting(
        "ROUNDS", "Number of rounds; empty: the app's.", None, whole(1), ("--rounds", "-r")
    )
    config: str = setting("CONFIG", CONFIG_MEANING, "", options=("--config", "-c"))
    app: Path | None = setting("APP", APP_MEANING, None, PATH)


@dataclass(frozen=True)
class ShownSettings:
    """How a run is shown while it is under way."""

    results: Path = setting(RESULTS_VARIABLE, "Folder of all results.", Path("results"), PATH)
    plain: bool = setting("", "Print lines only, also on a terminal.", False)


@dataclass(frozen=True)
class ControlSettings:
    """Where the SuperLink is that a command speaks to."""

    control_address: str = setting("BOUQUET_CONTROL", CONTROL_MEANING, "127.0.0.1:8000", CONTROL)
    ca: Path | None = setting("BOUQUET_CA", CA_MEANING, None, PATH)


@dataclass(frozen=True)
class TrainSettings(ControlSettings, ShownSettings, RunRequest):
    """What ``bouquet train`` submits, and where."""

    num_clients: int = setting("NUM_CLIENTS", CLIENTS_MEANING, 10, whole(1), CLIENTS_OPTIONS)


@dataclass(frozen=True)
class EvaluateSettings(ControlSettings):
    """What ``bouquet evaluate`` asks, and where."""

    model: str = setting(
        "", "The safetensors file; a path on the SuperLink's machine.", "", options=("--model", "-m")
    )
    as_json: bool = setting("", "Print JSON in place of the table.", False, options=("--json",))
    num_clients: int = setting("NUM_CLIENTS", CLIENTS_MEANING, 10, whole(1), CLIENTS_OPTIONS)
    config: str = setting("CONFIG", CONFIG_MEANING, "", options=("--config", "-c"))


@dataclass(frozen=True)
class DrainSettings(ControlSettings):
    """Which server `bouquet drain` empties."""

    results: Path = setting(RESULTS_VARIABLE, "Folder of all results.", Path("results"), PATH)
    after_run: bool = setting("", "Let the run that is under way end first.", False)
    off: bool = setting("", "Begin rounds again.", False)


@dataclass(frozen=True)
class DoctorSettings:
    """What `bouquet doctor` looks at. The settings of the processes themselves are those of their own classes."""

    role: str = setting(
        "",
        "What this machine is: server, client, or all for one command that starts everything here.",
        "all",
        one_of("server", "client", "all"),
    )
    as_json: bool = setting("", "Print JSON, with a schema_version.", False, options=("--json",))
    quick: bool = setting("", "Only what takes no network, no other program and little time.", False)


@dataclass(frozen=True)
class StatusSettings(ControlSettings):
    """Which federation `bouquet status` shows."""

    results: Path = setting(RESULTS_VARIABLE, "Folder of all results.", Path("results"), PATH)
    watch: bool = setting("", "Go on showing it, until Ctrl-C.", False)
    as_json: bool = setting("", "Print JSON, with a schema_version.", False, options=("--json",))


@dataclass(frozen=True)
class WatchSettings(ShownSettings):
    """Which run `bouquet watch` shows."""

    run: str = setting("", "Name of the run; empty: the one that is under way, or the next one.", "")


@dataclass(frozen=True)
class LogsSettings:
    """Which lines `bouquet logs` shows."""

    state: Path = setting("BOUQUET_STATE", STATE_MEANING, Path("state"), PATH)
    lines: int = setting("", "How many of the last lines.", 100, whole(1), ("--lines", "-n"))
    follow: bool = setting("", "Go on showing new ones, until Ctrl-C.", False, options=("--follow", "-f"))


@dataclass(frozen=True)
class RunsSettings:
    """Where the runs are that a command looks at."""

    results: Path = setting(RESULTS_VARIABLE, "Folder of all results.", Path("results"), PATH)


@dataclass(frozen=True)
class ReportSettings(RunsSettings):
    """What ``bouquet report`` draws."""

    run: str = setting("", RUN_MEANING, LATEST)
    data: Path | None = setting(DATA_VARIABLE, RUN_DATA_MEANING, None, PATH)
    with_baselines: bool = setting(
        "", "Train each partition alone and all data in one place, to compare.", False
    )
    out: Path | None = setting("", "The page; default: report.html in the run's folder.", None, PATH)


@dataclass(frozen=True)
class CompareSettings(RunsSettings):
    """What ``bouquet compare`` sets side by side."""

    runs: tuple[str, ...] = setting(
        "", "Two runs or more: names in the results folder, or folders.", (), WORDS, ()
    )
    out: Path | None = setting("", "The page; default: compare-….html in the results folder.", None, PATH)


@dataclass(frozen=True)
class PredictSettings(RunsSettings):
    """What ``bouquet predict`` asks, and which model."""

    images: tuple[str, ...] = setting("", "Pictures, and folders of pictures.", (), WORDS, ())
    run: str = setting("", RUN_MEANING, LATEST)
    model: str = setting("", MODEL_MEANING, "best")
    top: int = setting("", "Classes to name for each picture.", 3, whole(1))
    as_json: bool = setting("", "Print JSON, with a schema_version.", False, options=("--json",))


@dataclass(frozen=True)
class ExportSettings(RunsSettings):
    """What ``bouquet export`` writes."""

    run: str = setting("", RUN_MEANING, LATEST)
    model: str = setting("", MODEL_MEANING, "best")
    form: str = setting("", "How it is written.", "torchscript", one_of("onnx", "torchscript"), ("--format",))
    data: Path | None = setting(DATA_VARIABLE, RUN_DATA_MEANING, None, PATH)
    out: Path | None = setting("", "The file; default: beside the model.", None, PATH)


@dataclass(frozen=True)
class MonitorSettings(RunsSettings, PageSettings):
    """What `bouquet monitor` shows, and where."""

    logs: Path | None = setting("", "Keep TensorBoard's event files in this folder.", None, PATH)
    once: bool = setting("", "Take what is there, and end.", False)
    only_new: bool = setting("", "Leave out the runs that ended before.", False)

    def __post_init__(self) -> None:
        if self.once and self.logs is None and not self.mlflow:
            raise UserError("--once leaves nothing behind without --logs or --mlflow (MLFLOW_TRACKING_URI)")


@dataclass(frozen=True)
class QueueSettings(ControlSettings):
    """Whose queue of runs `bouquet queue` shows."""


@dataclass(frozen=True)
class LocalSettings(ShownSettings, RunRequest, DataSettings):
    """A federation that one command starts on this machine and takes down again."""

    data: Path | None = setting(DATA_VARIABLE, "A prepared data store, in place of --dataset.", None, PATH)
    dataset_path: Path | None = setting(DATASET_VARIABLE, DATASET_PATH_MEANING, None, PATH)
    mode: str = setting("BOUQUET_MODE", MODE_MEANING, "", options=())
    control_port: int = setting("", "Port of the Control API; 0 picks a free one.", 0, PORT)

    def __post_init__(self) -> None:
        _check_dataset(self.dataset_path)


@dataclass(frozen=True)
class SimulateSettings(LocalSettings):
    """A federation in Flower's simulation."""

    patches: str = setting("BOUQUET_PATCHES", PATCHES_MEANING, "", options=())
    device: Device = setting("BOUQUET_DEVICE", "Where a client trains.", Device(), DEVICE)


@dataclass(frozen=True)
class UpSettings(WatchedSettings, PageSettings, ClientSettings, LocalSettings, RunRules):
    """A federation of plain processes."""

    monitor: bool = setting("", "Show the run in TensorBoard while this command runs.", False)
    report: bool = setting("", "Make a page of the run at its end (`bouquet report`).", False)


@dataclass(frozen=True)
class IdentitySettings:
    """What the identity commands read; ``app/cli/identity.py`` has their options."""

    pki: Path = setting("BOUQUET_PKI", "Folder of the CA: ca.key, ca.crt.", Path("pki"), PATH)
    num_clients: int = setting("NUM_CLIENTS", CLIENTS_MEANING, 10, whole(1), CLIENTS_OPTIONS)
    server_names: tuple[str, ...] = setting("SERVER_NAMES", SERVER_NAMES_MEANING, (), WORDS)
    certificates: Path | None = setting("BOUQUET_CERTIFICATES", CERTIFICATES_MEANING, None, PATH)


@dataclass(frozen=True)
class KubernetesSettings:
    """What the containers of ``deploy/k8s`` read beside the settings of the commands that they run."""

    run: str = setting("RUN", "Name of the run to train. Another name trains again.", "")
    state: Path = setting("BOUQUET_STATE", STATE_MEANING, Path("/state"), PATH)
    ca: Path | None = setting("BOUQUET_CA", CA_MEANING, None, PATH)
    node_key: Path | None = setting("BOUQUET_NODE_KEY", KEY_MEANING, None, PATH)
    pod_name: str = setting("POD_NAME", POD_NAME_MEANING, "")
    server_names: tuple[str, ...] = setting("SERVER_NAMES", SERVER_NAMES_MEANING, (), WORDS)
    tls_from: str = setting("TLS_FROM", "Who issues the server's certificate.", "", one_of("cert-manager"))
    member_list: Path | None = setting("BOUQUET_MEMBER_LIST", "Folder of the public keys.", None, PATH)
    api_host: str = setting("KUBERNETES_SERVICE_HOST", "Host of the cluster's API.", "")
    api_port: int = setting("KUBERNETES_SERVICE_PORT", "Port of the cluster's API.", 443, PORT)


@dataclass(frozen=True)
class ImageSettings:
    """Which images ``bouquet image`` builds, and from what."""

    app: Path | None = setting("APP", APP_MEANING, None, PATH)
    base: str = setting("IMAGE_TAG", "Tag of Bouquet's own images, which these add to.", "latest")
    tag: str = setting("", "Tag of the images that are built. Default: the app's name and version.", "")
    wheels: Path | None = setting("", "A folder of wheels, in the place of pip's index.", None, PATH)
    print_only: bool = setting("", "Print the Dockerfile, and build nothing.", False, options=("--print",))
    keep_versions: bool = setting("", "Keep Bouquet's versions where the app asks for others.", False)
    build_network: str = setting("BUILD_NETWORK", "Network of the build.", "default", options=())
    ca_certificates: str = setting(
        "CA_CERTIFICATES", "Certificates to trust in builds.", "/dev/null", options=()
    )


@dataclass(frozen=True)
class ForeignAppEnvironment:
    """What an app that is not Bouquet's finds in its environment, beside its node config."""

    dataset: Path | None = setting(DATASET_VARIABLE, DATASET_PATH_MEANING, None, PATH)
    artefacts: Path | None = setting(ARTEFACTS_VARIABLE, "Where it leaves its files.", None, PATH)
    run_folder: Path | None = setting(RUN_FOLDER_VARIABLE, "Folder of its run's results.", None, PATH)


@dataclass(frozen=True)
class ComposeSettings:
    """What only the Compose files read."""

    profiles: str = setting("COMPOSE_PROFILES", "gpu or cpu.", "gpu")
    project_name: str = setting("COMPOSE_PROJECT_NAME", "Prefix of container names.", "bouquet")
    fleet_bind: str = setting("FLEET_BIND", "Address of this host that listens.", "0.0.0.0")
    fleet_port: int = setting("FLEET_PORT", "Port of this host that clients dial.", 9092, PORT)
    metrics_bind: str = setting("METRICS_BIND", "Address of this host where the metrics are.", "127.0.0.1")
    metrics_port: int = setting("METRICS_PORT", "Port of this host where the metrics are.", 9097, PORT)
    tensorboard_port: int = setting("TENSORBOARD_PORT", "Port of 127.0.0.1 for TensorBoard.", 6006, PORT)
    prometheus_port: int = setting("PROMETHEUS_PORT", "Port of 127.0.0.1 for Prometheus.", 9090, PORT)
    grafana_port: int = setting("GRAFANA_PORT", "Port of 127.0.0.1 for Grafana.", 3000, PORT)
    superlink_memory: str = setting("SUPERLINK_MEMORY", "Memory limit of the SuperLink.", "4g")
    supernode_memory: str = setting("SUPERNODE_MEMORY", "Memory limit of each client.", "4g")
    one_shot_memory: str = setting("ONE_SHOT_MEMORY", "Memory limit of what runs once.", "4g")
    pids: int = setting("PIDS", "Process limit of each container.", 512, whole(1))
    image_tag: str = setting("IMAGE_TAG", "Tag of the images.", "latest")
    base_image: str = setting("BASE_IMAGE", "What the images are built on.", BASE_IMAGE)
    torch_index_cpu: str = setting(
        "TORCH_INDEX_CPU", "Index of torch for CPUs.", "https://download.pytorch.org/whl/cpu"
    )
    torch_index_gpu: str = setting("TORCH_INDEX_GPU", "Index of torch for GPUs.", "")
    ca_certificates: str = setting("CA_CERTIFICATES", "Certificates to trust in builds.", "/dev/null")
    build_network: str = setting("BUILD_NETWORK", "Network of the build.", "default")
    client_keys: str = setting("CLIENT_KEYS", "Folder of the clients' public keys.", "./clients")
    ca_certificate: str = setting("CA_CERTIFICATE", "A client's copy of ca.crt.", "./ca.crt")


class ProcessKind(NamedTuple):
    """A kind of process, the class that declares its settings, and where they are looked for."""

    name: str
    settings: type
    has_options: bool = False
    reads_dotenv: bool = False


KINDS = (
    ProcessKind("up", UpSettings, True, True),
    ProcessKind("simulate", SimulateSettings, True, True),
    ProcessKind("prepare", PrepareSettings, True, True),
    ProcessKind("train", TrainSettings, True, True),
    ProcessKind("evaluate", EvaluateSettings, True, True),
    ProcessKind("drain", DrainSettings, True),
    ProcessKind("doctor", DoctorSettings, True),
    ProcessKind("image", ImageSettings, True, True),
    ProcessKind("status", StatusSettings, True),
    ProcessKind("watch", WatchSettings, True),
    ProcessKind("logs", LogsSettings, True),
    ProcessKind("queue", QueueSettings, True),
    ProcessKind("report", ReportSettings, True, True),
    ProcessKind("compare", CompareSettings, True, True),
    ProcessKind("predict", PredictSettings, True, True),
    ProcessKind("export", ExportSettings, True, True),
    ProcessKind("monitor", MonitorSettings, True, True),
    ProcessKind("superlink", SuperLinkSettings, True),
    ProcessKind("supernode", SuperNodeSettings, True),
    ProcessKind("app", AppEnvironment),
    ProcessKind("foreign app", ForeignAppEnvironment),
    ProcessKind("identity", IdentitySettings),
    ProcessKind("kubernetes", KubernetesSettings),
    ProcessKind("compose", ComposeSettings, reads_dotenv=True),
)


def _check_transport(insecure: bool, given: Path | None, name: str) -> None:
    """Refuse neither and both of plaintext and a certificate."""
    if insecure == (given is not None):
        raise UserError(f"give either {name}, or --insecure for loopback and tests")


def _check_dataset(path: Path | None) -> None:
    if path is not None and not path.exists():
        raise UserError(f"BOUQUET_DATASET={path} is not there; give a folder or a file, or leave it out")
