"""ClientApp: what a client does with a message (Flower loads it).

A message holds the global model as Flower's ``ArrayRecord`` or packed into one array. The reply has the same form as
the message, so Flower's own strategies and simulation work as well.
"""

from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from flwr.clientapp.typing import ClientAppCallable
from flwr.common import NDArrays, Scalar

from app.learning import weights
from app.learning.batches import Examples
from app.learning.client import FlowerClient, client_fn, keep_personal, node_number, open_store
from app.learning.data.store import Split
from app.packing import arrays as packing
from app.process import keep_freed_memory
from app.settings import RunSettings


def packing_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Unpack the model of a packed message, and pack the model of its reply."""
    if packing.PACKED not in message.content.array_records:
        return call_next(message, context)
    message.content = packing.unpacked(message.content)
    reply = call_next(message, context)
    if reply.has_content() and packing.ARRAYS in reply.content.array_records:
        dtype = RunSettings.from_run_config(context.run_config).update_dtype
        reply.content = packing.packed(reply.content, dtype)
    return reply


def privacy_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Clip the update, and for local differential privacy add noise, with Flower's own mods."""
    settings = RunSettings.from_run_config(context.run_config)
    if settings.privacy == "local":
        # Flower draws the noise from NumPy's global generator. Noise that repeats would cancel out, so whatever
        # runs this app, the generator is fresh.
        np.random.seed()
        sensitivity = settings.local_sensitivity or 2 * settings.clipping_norm
        mod = LocalDpMod(settings.clipping_norm, sensitivity, settings.local_epsilon, settings.privacy_delta)
        return mod(message, context, call_next)
    if settings.clipping_side == "client" and settings.privacy == "central-fixed":
        return fixedclipping_mod(message, context, call_next)
    if settings.clipping_side == "client" and settings.privacy == "central-adaptive":
        return adaptiveclipping_mod(message, context, call_next)
    return call_next(message, context)


app = ClientApp()


@app.train(mods=[packing_mod, privacy_mod])
def train_message(message: Message, context: Context) -> Message:
    """Train the received model on this node's partition."""
    client = _client(message, context)
    names, parameters = _received(message, client)
    updated, num_examples, metrics = client.fit(parameters, _config(message))
    keep_personal(client, context)
    arrays = dict(
        zip(weights.state_tensors(client.model, client.settings.personal_prefixes), updated, strict=True)
    )
    record = packing.to_record({name: arrays[name] for name in names})  # Flower's mods compare the order
    return _reply(message, {packing.ARRAYS: record}, num_examples, metrics)


@app.evaluate(mods=[packing_mod])
def evaluate_message(message: Message, context: Context) -> Message:
    """Evaluate the received model on this node's validation examples."""
    client = _client(message, context)
    _, parameters = _received(message, client)
    loss, num_examples, metrics = client.evaluate(parameters, _config(message))
    return _reply(message, {}, num_examples, {"eval_loss": loss, **metrics})


@app.query()
def query_message(message: Message, context: Context) -> Message:
    """Reply with this node's partition id, so that the server can repeat a choice of clients."""
    metrics = MetricRecord({"partition-id": node_number(context.node_config, "partition-id")})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def warm_up(run_config: dict[str, Any], node_config: dict[str, Any]) -> None:
    """Do the work of a process's first message once, before the process forks.

    Opens the partition, builds the model, and takes one training and one evaluation step on copies, on the
    CPU with one thread: CUDA or a pool of threads would not survive the fork. Only caches stay behind.
    """
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        context = Context(0, 0, node_config, RecordDict(), run_config)
        client = client_fn(context, torch.device("cpu"))
        settings = client.settings
        training, validation = (
            _first(part, settings.batch_size) for part in (client.training, client.validation)
        )
        warm = FlowerClient(client.model, training, validation, settings, partition_id=client.partition_id)
        arrays = weights.get_arrays(client.model, settings.personal_prefixes)
        parameters = list(packing.unpack(packing.pack(arrays, settings.update_dtype)).values())
        warm.fit(parameters, {"server-round": 1})
        warm.evaluate(parameters, {})
    finally:
        torch.set_num_threads(threads)


def _first(examples: Split | Examples, count: int) -> Split:
    images, labels = examples.images[:count], examples.labels[:count]
    return Split(np.array(images), np.array(labels))


def _client(message: Message, context: Context) -> FlowerClient:
    """This node's client. Raises UserError when the server's data is of other classes, another shape or another division."""
    config = message.content.config_records.get("config", ConfigRecord())
    if isinstance(shape := config.get("shape"), list) and isinstance(classes := config.get("classes"), list):
        division = str(config.get("division", ""))
        open_store().require([int(edge) for edge in shape], [str(name) for name in classes], division)
    return client_fn(context)


def _received(message: Message, client: FlowerClient) -> tuple[list[str], NDArrays]:
    """The names in the order of the message, and the arrays in the model's order.

    The arrays are copies, because Flower's mods compare the reply with the message. Raises ValueError for another
    model's arrays. Personal layers in the message are ignored.
    """
    arrays = packing.from_record(message.content.array_records[packing.ARRAYS])
    prefixes = client.settings.personal_prefixes
    came = [name for name in arrays if not weights.is_personal(name, prefixes)]
    wanted = list(weights.state_tensors(client.model, prefixes))
    if set(came) != set(wanted):
        raise ValueError(
            f"the server's model is another one: it differs in {sorted(set(came) ^ set(wanted))[:3]}"
        )
    return came, [arrays[name].copy() for name in wanted]


def _config(message: Message) -> dict[str, Scalar]:
    """The ``config`` record of Flower's strategies."""
    record = message.content.config_records.get("config", ConfigRecord())
    return {key: value for key, value in record.items() if not isinstance(value, list)}


def _reply(
    message: Message, records: dict[str, ArrayRecord], num_examples: int, metrics: dict[str, Scalar]
) -> Message:
    numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
    content = RecordDict({**records, "metrics": MetricRecord({"num-examples": num_examples, **numbers})})
    return Message(content, reply_to=message)
