"""One client's work: the tutorial's ``FlowerClient``, which the deployed ClientApp calls as well."""

import copy
import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.client import NumPyClient
from flwr.common import NDArrays, Scalar
from torch import nn

from app.environment import whole
from app.errors import UserError
from app.learning import weights
from app.learning.batches import Examples
from app.learning.data.store import Split, Store, default_path
from app.learning.model import build_model
from app.learning.training import choose_device, evaluate, round_seed, train
from app.packing import arrays as packing
from app.settings import RunSettings

# What a client reports beside `num-examples`. The server goes by these names where clients report different ones.
_WHO = ("partition-id", "on-gpu")
TRAIN_METRICS = ("train_loss", "train_accuracy", "train_s", *_WHO)
EVALUATE_METRICS = ("eval_loss", "eval_accuracy", "eval_s", *_WHO)
PERSONAL = "personal-layers"  # record in a client's state, which never leaves it


class FlowerClient(NumPyClient):
    """Trains and evaluates one model on one client's examples.

    Parameters travel as a list of arrays in the order of :func:`app.learning.weights.state_tensors`, without
    the layers named in ``settings.personal_layers``.
    """

    def __init__(
        self,
        model: nn.Module,
        training: Split | Examples,
        validation: Split | Examples,
        settings: RunSettings,
        *,
        partition_id: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.model = model
        self.training = training
        self.validation = validation
        self.settings = settings
        self.partition_id = partition_id
        self.device = device or torch.device("cpu")

    def get_parameters(self, config: Mapping[str, Scalar]) -> NDArrays:
        """The model's shared weights."""
        return weights.get_list(self.model, self.settings.personal_prefixes)

    def set_parameters(self, parameters: NDArrays) -> None:
        """Take over shared weights. Raises ValueError when they are of another model."""
        weights.set_list(self.model, parameters, self.settings.personal_prefixes)

    def fit(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[NDArrays, int, dict[str, Scalar]]:
        """Train for ``local-epochs`` from ``parameters``; ``config`` may hold ``server-round``.

        Returns:
            The weights, the number of training examples, and ``train_loss``, ``train_accuracy``,
            ``train_s`` (seconds of arithmetic), ``partition-id`` and ``on-gpu``.
        """
        self.set_parameters(parameters)
        server_round = _int(config.get("server-round", 1))
        started = time.perf_counter()
        metrics: dict[str, Scalar] = {
            **train(
                self.model,
                self.training,
                self.settings,
                seed=round_seed(self.settings.seed, self.partition_id, server_round),
                device=self.device,
                server_round=server_round,
                global_params=weights.state_tensors(self.model),
            )
        }
        parameters = self.get_parameters({})  # waits for a GPU to finish
        metrics["train_s"] = time.perf_counter() - started
        return parameters, len(self.training), metrics | self._identity()

    def evaluate(
        self, parameters: NDArrays, config: dict[str, Scalar]
    ) -> tuple[float, int, dict[str, Scalar]]:
        """Evaluate ``parameters`` on the validation examples.

        Returns:
            The loss, the number of examples, and ``eval_accuracy``, ``eval_s``, ``partition-id``, ``on-gpu``.
        """
        self.set_parameters(parameters)
        started = time.perf_counter()
        loss, accuracy = evaluate(self.model, self.validation, device=self.device, settings=self.settings)
        metrics: dict[str, Scalar] = {"eval_accuracy": accuracy, "eval_s": time.perf_counter() - started}
        return loss, len(self.validation), metrics | self._identity()

    def _identity(self) -> dict[str, Scalar]:
        return {"partition-id": self.partition_id, "on-gpu": int(self.device.type == "cuda")}


def client_fn(context: Context, device: torch.device | None = None) -> FlowerClient:
    """The client of this node: ``partition-id`` and ``num-partitions`` come from ``context.node_config``.

    It takes its personal layers back from ``context.state``, where an earlier round left them.

    Raises:
        UserError: bad settings, no data, or a partition id that is no number or out of range.
    """
    settings = RunSettings.from_run_config(context.run_config)
    partition_id = node_number(context.node_config, "partition-id")
    num_partitions = (
        node_number(context.node_config, "num-partitions")
        if "num-partitions" in context.node_config
        else None
    )
    store = open_store()
    device = device or choose_device(partition_id)
    training, validation = _examples(store.path, partition_id, num_partitions, device)
    client = FlowerClient(
        _fresh_model(settings, store.manifest.shape, len(store.manifest.classes)),
        training,
        validation,
        settings,
        partition_id=partition_id,
        device=device,
    )
    if settings.personal_prefixes and PERSONAL in context.state.array_records:
        _restore_personal(client, context)
    return client


def open_store() -> Store:
    """This node's data store; opened once per process. Raises UserError when there is none."""
    return _store(default_path())


def keep_personal(client: FlowerClient, context: Context) -> None:
    """Leave the client's personal layers in ``context.state`` for its next round."""
    prefixes = client.settings.personal_prefixes
    if prefixes:
        own = {n: a for n, a in weights.get_arrays(client.model).items() if weights.is_personal(n, prefixes)}
        context.state[PERSONAL] = packing.to_record(own)


def node_number(node_config: Mapping[str, Any], key: str) -> int:
    """A whole number of the node's configuration. Raises UserError when it is none, or negative."""
    value = node_config.get(key)
    try:
        return int(whole().parse(str(value)))
    except ValueError as error:
        raise UserError(
            f"node config: {key}={value!r} must be {error}; start the node with {key}=0 or more"
        ) from None


def _restore_personal(client: FlowerClient, context: Context) -> None:
    kept = packing.from_record(context.state.array_records[PERSONAL])
    weights.set_arrays(client.model, weights.get_arrays(client.model) | kept)


# A warm process keeps these between messages. Nothing changes them: a message gets a copy of the model.


@functools.lru_cache(maxsize=4)
def _store(path: Path) -> Store:
    return Store.open(path)


@functools.lru_cache(maxsize=2)
def _examples(
    path: Path, partition_id: int, num_partitions: int | None, device: torch.device
) -> tuple[Examples, Examples]:
    partition = _store(path).partition_for(partition_id, num_partitions)
    return Examples(partition.train, device), Examples(partition.val, device)


@functools.lru_cache(maxsize=4)
def _template(settings: RunSettings, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    return build_model(settings, shape, num_classes, load_weights=False)


def _fresh_model(settings: RunSettings, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    return copy.deepcopy(_template(settings, shape, num_classes))


def _int(value: Scalar) -> int:
    return int(value) if isinstance(value, int | float) else 1
