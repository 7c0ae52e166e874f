"""``bouquet tour``: the steps of the Flower tutorial on the embedded digits, with the functions that are deployed.

Three organisations hold 400 pictures each. Every step prints what comes out and names the file to read.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flwr.app import Context, RecordDict
from flwr.common import NDArrays, Scalar
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from app.environment import DATA_VARIABLE, temporary_variables
from app.errors import UserError
from app.fleet.deployment import UpSettings
from app.fleet.local import up as launch
from app.fleet.local.launch import Data
from app.fleet.runs import submit
from app.learning.batches import Examples
from app.learning.client import FlowerClient, client_fn
from app.learning.data.prepare import Request, prepare
from app.learning.data.sources import DIGITS
from app.learning.data.store import Store
from app.learning.training import evaluate
from app.learning.weights import state_tensors
from app.settings import RunSettings
from app.tutorial.centralized import train_alone
from app.tutorial.samples import save_label_distribution, save_samples

CLIENTS = 3
EPOCHS = 5  # of the organisation that trains alone, and rounds of the others: the same work for each
ROUNDS_BY_HAND = 2
ALONE = f"alone, {EPOCHS} epochs on its own data"
BY_HAND = f"averaged by hand, {ROUNDS_BY_HAND} rounds"
FEDERATION = f"a federation, {EPOCHS} rounds"


@dataclass
class Tour:
    """A walk through the steps.

    Attributes:
        folder: where pictures and results go.
        console: where the steps are shown.
        settings: the run's settings, the tutorial's defaults.
        accuracy: accuracy on the test set by step, for the table at the end.
    """

    folder: Path
    console: Console
    settings: RunSettings = field(default_factory=RunSettings)
    accuracy: dict[str, float] = field(default_factory=dict)
    _steps: int = 0

    def walk(self) -> dict[str, float]:
        """Take all steps; returns the accuracies on the test set.

        Raises:
            UserError: the folder cannot be written, or holds something else.
        """
        started = time.monotonic()
        store = self.prepare()
        with data_in(store.path):
            self.see_the_data(store)
            self.train_alone(store)
            self.exchange_parameters()
            self.be_a_client()
            self.average_by_hand(store)
            self.run_a_federation(store)
        self.sum_up(time.monotonic() - started)
        return self.accuracy

    # -- the steps ------------------------------------------------------------------------------

    def prepare(self) -> Store:
        """Write the data store: an iid division among three clients, 80 % of each to train on."""
        store = self.folder / "store"
        prepare(Request(DIGITS, num_partitions=CLIENTS), store)
        return Store.open(store)

    def see_the_data(self, store: Store) -> None:
        """Save pictures of the data."""
        self._heading("The data", "app/learning/data/prepare.py, app/tutorial/samples.py")
        manifest = store.manifest
        table = Table("partition", "to train on", "to validate on")
        for partition_id, counts in enumerate(manifest.counts):
            table.add_row(str(partition_id), str(counts.train), str(counts.val))
        self._print(
            f"{manifest.source}: {'x'.join(map(str, manifest.shape))}, classes {', '.join(manifest.classes)}"
        )
        self.console.print(table)
        for picture in (
            save_samples(store, 0, self.folder / "samples-0.png"),
            save_label_distribution(store, self.folder / "labels.png"),
        ):
            self._print(f"saved {picture}")
        self._typed(f"bouquet samples --partition-id 0 --data {store.path}")

    def train_alone(self, store: Store) -> None:
        """Train on the first partition only."""
        self._heading("One organisation alone", "app/tutorial/centralized.py, app/learning/model.py")
        alone = train_alone(store, self.settings, epochs=EPOCHS, echo=self._print)
        self.accuracy[ALONE] = alone.test[1]
        self._typed(f"bouquet centralized --partition-id 0 --epochs {EPOCHS} --data {store.path}")

    def exchange_parameters(self) -> None:
        """Show what travels between server and client."""
        self._heading("get_parameters and set_parameters", "app/packing/arrays.py")
        one, other = (self._client(partition_id) for partition_id in (0, 1))
        parameters = one.get_parameters({})
        table = Table("array", "shape", "numbers")
        for name, array in zip(state_tensors(one.model), parameters, strict=True):
            table.add_row(name, "x".join(map(str, array.shape)), f"{array.size:,}")
        self.console.print(table)
        total = sum(array.size for array in parameters)
        self._print(f"{len(parameters)} arrays, {total:,} numbers, {total * 4:,} bytes each way and round")
        changed = [array + 1 for array in parameters]
        other.set_parameters(changed)
        same = all(np.array_equal(a, b) for a, b in zip(other.get_parameters({}), changed, strict=True))
        self._print(f"after set_parameters, get_parameters gives the same arrays back: {same}")

    def be_a_client(self) -> None:
        """Call the client as Flower does."""
        self._heading("FlowerClient and client_fn", "app/learning/client.py, app/client_app.py")
        context = context_of(0)
        self._print(f"client_fn(context) with node_config {context.node_config}")
        client = client_fn(context)
        start = client.get_parameters({})
        updated, num_examples, metrics = client.fit(start, {"server-round": 1})
        self._print(f"fit: {len(updated)} arrays, {num_examples} examples, {_numbers(metrics)}")
        for when, parameters in (("before", start), ("after", updated)):
            loss, num_examples, metrics = client.evaluate(parameters, {})
            self._print(f"evaluate {when} fit: loss {loss:.4f}, {num_examples} examples, {_numbers(metrics)}")

    def average_by_hand(self, store: Store) -> None:
        """FedAvg without a server: everyone trains from the same parameters, then the weighted mean."""
        self._heading("FedAvg by hand", "app/rounds/strategies.py, app/rounds/loop.py")
        clients = [self._client(partition_id) for partition_id in range(CLIENTS)]
        test = Examples(store.test, clients[0].device)
        model = clients[0]

        def accuracy(parameters: NDArrays) -> float:
            model.set_parameters(parameters)
            return evaluate(model.model, test, device=model.device)[1]

        table = Table("round", *(f"client {i}" for i in range(CLIENTS)), "their average")
        parameters, reached = model.get_parameters({}), 0.0
        for server_round in range(1, ROUNDS_BY_HAND + 1):
            replies = [client.fit(parameters, {"server-round": server_round})[:2] for client in clients]
            parameters = weighted_average(replies)
            reached = accuracy(parameters)
            table.add_row(
                str(server_round), *(f"{accuracy(own):.4f}" for own, _ in replies), f"{reached:.4f}"
            )
        self._print("accuracy on the test set")
        self.console.print(table)
        self.accuracy[BY_HAND] = reached

    def run_a_federation(self, store: Store) -> None:
        """The same with a SuperLink and three SuperNodes, processes of their own that speak gRPC."""
        self._heading("A federation", "app/server_app.py, app/fleet/local/up.py")
        project = submit.project_folder()
        run_config = submit.run_config_for(project, CLIENTS, EPOCHS, "")
        settings = UpSettings(num_clients=CLIENTS, results=self.folder)
        if not launch.run(settings, Data(store.path), project, run_config, self._print).finished:
            raise UserError(
                f"the federation of the tour did not finish; its logs are in {self.folder / 'logs'}"
            )
        summary = json.loads((self.folder / "latest" / "summary.json").read_text(encoding="utf-8"))
        by_wire = summary["accuracy_per_round"][ROUNDS_BY_HAND - 1]
        self._print(
            f"round {ROUNDS_BY_HAND} by hand {self.accuracy[BY_HAND]:.4f}, by gRPC {by_wire:.4f}: the same arithmetic"
        )
        self.accuracy[FEDERATION] = summary["accuracy"]
        self._typed(f"bouquet up --dataset {DIGITS} --clients {CLIENTS} --rounds {EPOCHS}")

    def sum_up(self, seconds: float) -> None:
        """Compare, and say what to type next."""
        self.console.rule("What came out")
        table = Table("accuracy on the test set", "")
        for step, accuracy in self.accuracy.items():
            table.add_row(step, f"{accuracy:.4f}")
        self.console.print(table)
        self._print(f"{seconds:.0f} s; pictures and results are in {self.folder}")
        self._print("next: make run (ten clients), make simulate (Flower's simulation), bouquet --help")

    # -- how it is shown ------------------------------------------------------------------------

    def _client(self, partition_id: int) -> FlowerClient:
        return client_fn(context_of(partition_id))

    def _heading(self, title: str, files: str) -> None:
        self._steps += 1
        self.console.print()
        self.console.rule(f"[bold]{self._steps}. {title}[/bold]", align="left")
        self.console.print(f"[dim]read {files}[/dim]")

    def _typed(self, command: str) -> None:
        self.console.print(f"[dim]by itself: {escape(command)}[/dim]")

    def _print(self, line: str) -> None:
        # Flower's own lines come coloured.
        self.console.print(Text.from_ansi(line), highlight=False, soft_wrap=True)


def context_of(partition_id: int) -> Context:
    """The context that Flower gives to a client. Here only its partition matters."""
    node_config: dict[str, bool | float | int | str] = {
        "partition-id": partition_id,
        "num-partitions": CLIENTS,
    }
    return Context(run_id=0, node_id=0, node_config=node_config, state=RecordDict(), run_config={})


def weighted_average(replies: Sequence[tuple[NDArrays, int]]) -> NDArrays:
    """FedAvg (McMahan et al. 2017): the mean of the clients' parameters, weighted by their examples."""
    total = sum(num_examples for _, num_examples in replies)
    arrays_of = zip(*(parameters for parameters, _ in replies), strict=True)
    shares = [num_examples / total for _, num_examples in replies]
    return [sum(share * array for share, array in zip(shares, arrays, strict=True)) for arrays in arrays_of]


def data_in(store: Path) -> AbstractContextManager[None]:
    """Point clients to the data store, as the environment of a SuperNode does."""
    return temporary_variables({DATA_VARIABLE: str(store)})


def _numbers(metrics: Mapping[str, Scalar]) -> str:
    return ", ".join(
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value!r}"
        for name, value in metrics.items()
    )
