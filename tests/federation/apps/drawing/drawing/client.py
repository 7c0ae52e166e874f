"""Draws random numbers; with DRAWING_SEED the import seeds the global generators, as many apps do."""

import os
import random
import ssl

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod
from torch.utils.data import DataLoader, TensorDataset

# This gives no seed: what was there comes back.
with torch.random.fork_rng():
    torch.manual_seed(3)
before = random.getstate(), np.random.get_state()
random.seed(3)
np.random.seed(3)
random.setstate(before[0])
np.random.set_state(before[1])

if seed := os.environ.get("DRAWING_SEED"):
    random.seed(int(seed))
    np.random.seed(int(seed))
    torch.manual_seed(int(seed))

own_python, own_numpy, own_legacy = random.Random(), np.random.default_rng(), np.random.RandomState()
own_torch = torch.Generator()
own_torch.seed()
seeded_python, seeded_numpy, seeded_legacy = (
    random.Random(7),
    np.random.default_rng(7),
    np.random.RandomState(7),
)
own_legacy.normal()  # it keeps the second of a pair for the next call

app = ClientApp(mods=[LocalDpMod(1.0, 1.0, 1.0, 1e-5)])


def warm_up(run_config: dict[str, object], node_config: dict[str, object]) -> None:
    """Draw in the warm process, which stock Flower does not have."""
    random.random()
    np.random.rand()
    torch.rand(1)


@app.train()
def train(message: Message, context: Context) -> Message:
    loader = DataLoader(TensorDataset(torch.arange(1000)), batch_size=1000, shuffle=True)
    (shuffled,) = next(iter(loader))
    dropped = torch.nn.functional.dropout(torch.ones(64))
    metrics = {
        "global-python": random.random(),
        "global-numpy": float(np.random.rand()),
        "global-torch": float(torch.rand(1)),
        "global-shuffle": float(shuffled[0] * 1000 + shuffled[1]),
        "global-dropout": float(sum(2.0**bit for bit, kept in enumerate(dropped[:48]) if kept)),
        "own-python": own_python.random(),
        "own-numpy": float(own_numpy.random()),
        "own-legacy": float(own_legacy.normal()),
        "own-torch": float(torch.rand(1, generator=own_torch)),
        "seeded-python": seeded_python.random(),
        "seeded-numpy": float(seeded_numpy.random()),
        "seeded-legacy": float(seeded_legacy.rand()),
        "openssl": float(int.from_bytes(ssl.RAND_bytes(6), "big")),
        "partition-id": int(context.node_config["partition-id"]),
    }
    arrays = ArrayRecord({"zeros": Array(np.full(4, 0.1))})  # the mod divides by the update's norm
    return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord(metrics)}), reply_to=message)
