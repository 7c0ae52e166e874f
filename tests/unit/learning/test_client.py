"""A client's work: the same through NumPyClient, through messages, packed or not, warm or fresh."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common import NDArrays, Scalar
from flwr.supercore.task_identity import TaskIdentity

from app import client_app
from app.errors import UserError
from app.learning import client as client_module
from app.learning import weights
from app.learning.client import EVALUATE_METRICS, TRAIN_METRICS, FlowerClient, client_fn, open_store
from app.learning.data.prepare import Request, prepare
from app.learning.model import build_model
from app.packing import arrays as packing
from app.settings import RunSettings

CPU = torch.device("cpu")
NODE = {"partition-id": 1, "num-partitions": 3}


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "store"
    prepare(Request("digits", num_partitions=3), path)
    return path


@pytest.fixture(autouse=True)
def here(digits: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("BOUQUET_DATA", str(digits))
    monkeypatch.setenv("BOUQUET_DEVICE", "cpu")
    monkeypatch.setattr(TaskIdentity, "_run_id", 1)
    monkeypatch.setattr(TaskIdentity, "_task_id", 1, raising=False)
    monkeypatch.setattr(TaskIdentity, "_node_id", 1, raising=False)
    torch.set_num_threads(1)
    yield
    for cache in (client_module._store, client_module._examples, client_module._template):
        cache.cache_clear()


def context(**run_config: object) -> Context:
    return Context(1, 7, dict(NODE), RecordDict(), {k.replace("_", "-"): v for k, v in run_config.items()})  # type: ignore[misc]


def first_arrays(ctx: Context) -> ArrayRecord:
    settings = RunSettings.from_run_config(ctx.run_config)
    return weights.state_arrays(build_model(settings, (3, 32, 32), 10), settings.personal_prefixes)


def send(kind: str, ctx: Context, arrays: ArrayRecord, *, packed: bool, **config: Any) -> Message:
    content = RecordDict({packing.ARRAYS: arrays, "config": ConfigRecord({"server-round": 1, **config})})
    if packed:
        content = packing.packed(content)
    reply = client_app.app(Message(content, 7, kind), ctx)
    assert reply.has_content()
    return reply


def replied_arrays(reply: Message) -> dict[str, np.ndarray]:
    records = reply.content.array_records
    if packing.PACKED in records:
        return packing.unpack(records[packing.PACKED])
    return packing.from_record(records[packing.ARRAYS])


def metrics(reply: Message) -> MetricRecord:
    return next(iter(reply.content.metric_records.values()))


def test_training_is_the_same_packed_unpacked_and_through_numpyclient() -> None:
    ctx = context()
    arrays = first_arrays(ctx)
    plain, packed = (send("train", ctx, arrays, packed=way) for way in (False, True))
    assert list(plain.content) == ["arrays", "metrics"] and list(packed.content) == ["packed", "metrics"]
    client = client_fn(ctx)
    fitted, count, numbers = client.fit(list(packing.from_record(arrays).values()), {"server-round": 1})
    for (name, a), (_, b), c in zip(
        replied_arrays(plain).items(), replied_arrays(packed).items(), fitted, strict=True
    ):
        np.testing.assert_array_equal(a, b, name)
        np.testing.assert_array_equal(a, c, name)
    assert metrics(packed)["num-examples"] == count == len(client.training)
    assert metrics(packed)["partition-id"] == 1
    assert metrics(packed)["train_loss"] == numbers["train_loss"]
    assert set(metrics(packed)) == {"num-examples", *TRAIN_METRICS}


def test_evaluation_reports_means_over_the_validation_examples() -> None:
    ctx = context()
    arrays = packing.from_record(first_arrays(ctx))
    reply = send("evaluate", ctx, packing.to_record(arrays), packed=True)
    assert set(metrics(reply)) == {"num-examples", *EVALUATE_METRICS}
    loss, count, numbers = client_fn(ctx).evaluate(list(arrays.values()), {})
    assert (metrics(reply)["eval_loss"], metrics(reply)["num-examples"]) == (loss, count)
    assert metrics(reply)["eval_accuracy"] == numbers["eval_accuracy"]
    assert list(reply.content) == ["metrics"]


def test_half_precision_updates_come_back_in_half_the_bytes() -> None:
    ctx = context(update_dtype="float16")
    reply = send("train", ctx, first_arrays(ctx), packed=True)
    assert len(reply.content.array_records[packing.PACKED]["model"].data) < 1.05 * 2 * 62_006


def test_rounds_and_partitions_have_their_own_batches() -> None:
    ctx, other = context(), context()
    other.node_config["partition-id"] = 2
    arrays = first_arrays(ctx)
    one, two = (send("train", ctx, arrays, packed=True, **{"server-round": n}) for n in (1, 2))
    three = send("train", other, arrays, packed=True)
    again = send("train", ctx, arrays, packed=True, **{"server-round": 2})
    biases = [replied_arrays(reply)["fc3.bias"] for reply in (one, two, three, again)]
    assert not np.array_equal(biases[0], biases[1]) and not np.array_equal(biases[0], biases[2])
    np.testing.assert_array_equal(biases[1], biases[3])


def test_personal_layers_stay_and_are_trained_on() -> None:
    ctx = context(personal_layers="fc3")
    arrays = first_arrays(ctx)
    assert "fc3.weight" not in arrays
    reply = send("train", ctx, arrays, packed=True)
    assert set(replied_arrays(reply)) == set(arrays)
    kept = packing.from_record(ctx.state.array_records[client_module.PERSONAL])
    assert set(kept) == {"fc3.weight", "fc3.bias"}
    np.testing.assert_array_equal(
        client_fn(ctx).model.get_parameter("fc3.weight").detach(), kept["fc3.weight"]
    )
    send("train", ctx, arrays, packed=True, **{"server-round": 2})
    after = packing.from_record(ctx.state.array_records[client_module.PERSONAL])
    assert np.abs(after["fc3.weight"] - kept["fc3.weight"]).max() > 0
    # The full model, as a server that knows nothing of personal layers sends it, is taken as well.
    full = weights.state_arrays(build_model(RunSettings(), (3, 32, 32), 10))
    assert set(replied_arrays(send("train", ctx, full, packed=False))) == set(arrays)


def test_fedprox_pulls_towards_the_global_model() -> None:
    moved = []
    for mu in (0.0, 10.0):
        ctx = context(strategy="fedprox", proximal_mu=mu)
        start = first_arrays(ctx)
        end = replied_arrays(send("train", ctx, start, packed=True))
        moved.append(sum(float(((end[n] - a) ** 2).sum()) for n, a in packing.from_record(start).items()))
    assert moved[1] < 0.5 * moved[0]


@pytest.mark.parametrize("packed", [False, True])
def test_another_model_or_nonsense_is_refused(packed: bool) -> None:
    ctx = context()
    arrays = weights.state_arrays(build_model(RunSettings(norm="group"), (1, 28, 28), 10))
    with pytest.raises(ValueError):
        send("train", ctx, arrays, packed=packed)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_client_whose_classes_are_not_the_servers_says_so(kind: str) -> None:
    ctx = context()
    manifest = open_store().manifest
    arrays = first_arrays(ctx)
    send(kind, ctx, arrays, packed=True, shape=list(manifest.shape), classes=list(manifest.classes))
    with pytest.raises(UserError, match="--classes"):
        send(kind, ctx, arrays, packed=True, shape=list(manifest.shape), classes=manifest.classes[::-1])


@pytest.mark.parametrize("value", [3, -1, "x", True, None, "1.5"])
def test_a_bad_partition_id_is_said_in_one_line(value: object) -> None:
    ctx = context()
    ctx.node_config["partition-id"] = value  # type: ignore[assignment]
    with pytest.raises(UserError, match="partition-id"):
        client_fn(ctx)


def test_bad_settings_are_said_before_anything_is_opened() -> None:
    with pytest.raises(UserError, match="local-epochs"):
        client_fn(context(local_epochs=0))


def test_a_query_tells_the_partition() -> None:
    reply = client_app.app(Message(RecordDict(), 7, "query"), context())
    assert metrics(reply)["partition-id"] == 1


@pytest.mark.parametrize(
    "run_config",
    [
        {"privacy": "local", "local_epsilon": 1.0},
        {"privacy": "central-fixed", "clipping_side": "client", "clipping_norm": 0.01},
        {"privacy": "central-adaptive", "clipping_side": "client", "clipping_norm": 0.01},
    ],
)
def test_the_client_clips_its_update(run_config: dict[str, object]) -> None:
    ctx = context(**run_config)
    start = first_arrays(ctx)
    np.random.seed(0)  # as two forks of one warm process inherit it
    reply = send("train", ctx, start, packed=True, clipping_norm=0.01)
    end = replied_arrays(reply)
    moved = sum(float(((end[n] - a) ** 2).sum()) for n, a in packing.from_record(start).items()) ** 0.5
    if run_config["privacy"] == "local":
        np.random.seed(0)
        again = replied_arrays(send("train", ctx, start, packed=True))
        assert not np.array_equal(end["fc3.bias"], again["fc3.bias"])  # fresh noise each time
    else:
        assert moved == pytest.approx(0.01, rel=1e-3)
        assert ("norm_bit" in metrics(reply)) == (run_config["privacy"] == "central-adaptive")


def test_an_update_is_clipped_also_where_fit_writes_into_what_it_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fit(_: object, parameters: NDArrays, __: object) -> tuple[NDArrays, int, dict[str, Scalar]]:
        for array in parameters:
            array += 1.0
        return parameters, 1, {}

    monkeypatch.setattr(FlowerClient, "fit", fit)
    ctx = context(privacy="central-fixed", clipping_side="client", clipping_norm=0.01)
    start = first_arrays(ctx)
    end = replied_arrays(send("train", ctx, start, packed=True, clipping_norm=0.01))
    moved = sum(float(((end[n] - a) ** 2).sum()) for n, a in packing.from_record(start).items()) ** 0.5
    assert moved == pytest.approx(0.01, rel=1e-3)


WORK = """
    import os, hashlib, json, sys, torch
    from flwr.app import Context, ConfigRecord, Message, RecordDict
    from flwr.supercore.task_identity import TaskIdentity
    TaskIdentity._run_id = TaskIdentity._task_id = TaskIdentity._node_id = 1
    from app import client_app
    from app.learning import weights
    from app.packing import arrays as packing
    from app.learning.model import build_model
    from app.settings import RunSettings
    def work():
        arrays = weights.state_arrays(build_model(RunSettings(), (3, 32, 32), 10))
        ctx = Context(1, 7, {"partition-id": 1, "num-partitions": 3}, RecordDict(), {})
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": 1})})
        reply = client_app.app(Message(content, 7, "train"), ctx)
        numbers = packing.from_record(reply.content.array_records["arrays"])
        digest = hashlib.sha256(b"".join(a.tobytes() for a in numbers.values())).hexdigest()
        print(digest, "torch._dynamo" in sys.modules, flush=True)
    mode = sys.argv[1]
    if mode == "fresh":
        torch.set_num_threads(1)
        work()
    else:
        client_app.warm_up({"seed": 42}, {"partition-id": 1, "num-partitions": 3})
        for _ in range(2):
            child = os.fork()
            if not child:
                torch.set_num_threads(1)
                work()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
"""


def test_a_fork_of_a_warm_process_gives_the_same_bits_as_a_fresh_one() -> None:
    def run(mode: str) -> list[str]:
        command = [sys.executable, "-c", textwrap.dedent(WORK), mode]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env=dict(os.environ), timeout=300
        ).stdout.splitlines()

    fresh, warm = run("fresh"), run("warm")
    assert len(warm) == 2 and set(warm) == set(fresh)
    # torch.optim would pull in a compiler: 0.9 s and 150 MB in every client.
    assert fresh[0].endswith("False")
