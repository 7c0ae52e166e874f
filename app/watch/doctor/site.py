"""What the rules look at: the settings of the processes here, and facts that several rules share, found out once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

from app.environment import AppEnvironment, Device, read, variables
from app.errors import UserError
from app.fleet.deployment import (
    IdentitySettings,
    PrepareSettings,
    SuperLinkSettings,
    SuperNodeSettings,
    UpSettings,
)
from app.watch.doctor import programs
from app.watch.doctor.rule import ALL, CLIENT, SERVER

if TYPE_CHECKING:
    from app.fleet.fleet_api.about import Answer
    from app.watch.doctor.network.door import Door


@dataclass
class Site:
    """A machine in its role: ``server``, ``client``, or ``all`` for a federation that one command starts here.

    Attributes:
        role: of this machine.
        given: settings from the command line, by field.
        environment: default: that of this process.
        dotenv: the variables of `.env`, for the role ``all``.
    """

    role: str
    given: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=variables)
    dotenv: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_process(cls, role: str, settings: SuperLinkSettings | SuperNodeSettings | UpSettings) -> "Site":
        """The site of a process that has read its settings."""
        site = cls(role)
        site.own = settings
        return site

    def _read(self, kind: type[Any]) -> Any:
        dotenv = self.dotenv if self.role == ALL else {}
        return read(kind, self.given, environment=self.environment, dotenv=dotenv)

    def load(self) -> None:
        """Read the settings of the role. Raises UserError for one that cannot be used."""
        _ = self.app, self.sources, self.own

    @cached_property
    def own(self) -> SuperLinkSettings | SuperNodeSettings | UpSettings:
        """The settings of the process that runs here."""
        kinds = {SERVER: SuperLinkSettings, CLIENT: SuperNodeSettings, ALL: UpSettings}
        settings: SuperLinkSettings | SuperNodeSettings | UpSettings = self._read(kinds[self.role])
        return settings

    @property
    def server(self) -> SuperLinkSettings:
        """Those of the SuperLink."""
        assert isinstance(self.own, SuperLinkSettings)
        return self.own

    @property
    def client(self) -> SuperNodeSettings:
        """Those of the SuperNode."""
        assert isinstance(self.own, SuperNodeSettings)
        return self.own

    @cached_property
    def app(self) -> AppEnvironment:
        """What the apps find here."""
        settings: AppEnvironment = self._read(AppEnvironment)
        return settings

    @cached_property
    def sources(self) -> PrepareSettings:
        """Which data `bouquet prepare` would read here."""
        settings: PrepareSettings = self._read(PrepareSettings)
        return settings

    @cached_property
    def server_names(self) -> tuple[str, ...]:
        """What clients dial, as far as it was said."""
        names: tuple[str, ...] = self._read(IdentitySettings).server_names
        return names

    @property
    def results(self) -> Path:
        """The folder of all results."""
        return self.own.results if isinstance(self.own, UpSettings) else self.app.results

    @property
    def data(self) -> Path | None:
        """The prepared data store; None where none is named."""
        return self.own.data if isinstance(self.own, UpSettings) else self.app.data

    @property
    def device(self) -> Device:
        """Where clients train; for a server, where it evaluates."""
        return self.app.device

    @property
    def visible_gpus(self) -> str | None:
        """``CUDA_VISIBLE_DEVICES``."""
        return self.environment.get("CUDA_VISIBLE_DEVICES")

    @property
    def clients_here(self) -> int:
        """Clients whose processes this role starts on this machine, each counted once."""
        if isinstance(self.own, UpSettings):
            return self.own.num_clients
        return 1 if self.role == CLIENT else 0

    def program(self, name: str) -> str | None:
        """Where a program of the system is."""
        return which(name, path=self.environment.get("PATH"))

    @cached_property
    def engine(self) -> str | None:
        """The command of the container engine here; None where there is none."""
        return next((name for name in ("docker", "podman") if self.program(name)), None)

    @cached_property
    def engine_info(self) -> dict[str, Any] | None:
        """What the engine says of itself; None where it does not answer."""
        done = programs.run(self, self.engine or "docker", "info", "--format", "{{json .}}")
        try:
            found = json.loads(done.output) if done.status == 0 else None
        except ValueError:
            return None
        return found if isinstance(found, dict) and not found.get("ServerErrors") else None

    @cached_property
    def gpus(self) -> "programs.Done | None":
        """What NVIDIA's driver says of its GPUs, one line each; None where its program is not here."""
        if self.program("nvidia-smi") is None:
            return None
        query = "--query-gpu=index,name,memory.total,memory.free,driver_version"
        return programs.run(self, "nvidia-smi", query, "--format=csv,noheader,nounits")

    @cached_property
    def has_gpu(self) -> bool:
        """Whether an NVIDIA GPU is here, or is asked for."""
        devices = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
        return devices or (self.gpus is not None and self.gpus.status == 0) or self.device.kind == "cuda"

    @cached_property
    def door(self) -> "Door":
        """How the SuperLink that this client dials answers."""
        from app.watch.doctor.network.door import knock

        return knock(self.client)

    @cached_property
    def answer(self) -> "Answer | UserError":
        """What the SuperLink says of itself to this client, or why it does not."""
        from app.fleet.fleet_api import about
        from app.fleet.identity import keys

        client = self.client
        try:
            pair = keys.load_node_key(client.key) if client.ca and client.key else None
            return about.ask(client.superlink, client.ca, pair)
        except UserError as error:
            return error
