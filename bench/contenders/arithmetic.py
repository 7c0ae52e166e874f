"""The arithmetic alone: what a round costs when nothing but training and evaluation is done.

Warm processes, one per core (on a GPU: one per GPU), one thread each, all pictures as tensors in memory.
Between rounds the parent averages the models, which is not timed. No federation can be faster.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from bench.contenders.contract import Measurement, Workload
from bench.processes import BenchError
from bench.workload import Examples, State, average, build_model, evaluate, train_epoch

Loop = Literal["plain", "bouquet"]
TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class _Task:
    """What one worker process is given."""

    store: Path
    model: str
    shape: tuple[int, int, int]
    num_classes: int
    partitions: list[int]
    test_part: tuple[int, int]  # this worker's share of the test split: (number, of)
    device: str
    loop: Loop


class Arithmetic:
    """Row (a) of the table."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.key = "arithmetic" if loop == "plain" else "arithmetic-bouquet"
        self.title = "the arithmetic alone, " + (
            "plain PyTorch loop" if loop == "plain" else "Bouquet's training loop"
        )

    def missing(self, workload: Workload) -> str:
        """Nothing: torch is always here."""
        return ""

    def measure(self, workload: Workload, scratch: Path) -> Measurement:
        """Train and evaluate the rounds in warm processes."""
        import json

        manifest = json.loads((workload.store / "manifest.json").read_text(encoding="utf-8"))
        shape, num_classes = tuple(manifest["shape"]), len(manifest["classes"])
        devices = _devices()
        context = multiprocessing.get_context("spawn")
        workers = []
        os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
        for number, device in enumerate(devices):
            task = _Task(
                workload.store,
                workload.model,
                shape,
                num_classes,
                list(range(number, workload.clients, len(devices))),
                (number, len(devices)),
                device,
                self.loop,
            )
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, task), daemon=True)
            process.start()
            theirs.close()
            workers.append((process, ours))
        try:
            return _rounds([connection for _, connection in workers], workload, shape, num_classes)
        finally:
            for process, connection in workers:
                connection.close()
                process.terminate()
                process.join()


def _devices() -> list[str]:
    if torch.cuda.is_available():
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["cpu"] * len(
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )


def _rounds(
    workers: list[Connection], workload: Workload, shape: tuple[int, int, int], num_classes: int
) -> Measurement:
    for worker in workers:
        _receive(worker)  # warm
    torch.manual_seed(42)
    state: State = build_model(workload.model, shape, num_classes).state_dict()
    epochs_s, round_s = [], []
    accuracy = 0.0
    for number in range(1, workload.rounds + 1):
        _send(workers, ("load", state))
        _send(workers, ("train", number))
        trained = [_receive(worker) for worker in workers]
        epochs_s.append(_span(trained))
        state = average([update for answer in trained for update in answer["updates"]])
        sampled = [
            (number * workload.evaluating_clients + i) % workload.clients
            for i in range(workload.evaluating_clients)
        ]
        _send(workers, ("load", state))
        _send(workers, ("evaluate", sampled))
        evaluated = [_receive(worker) for worker in workers]
        round_s.append(epochs_s[-1] + _span(evaluated))
        accuracy = sum(answer["correct"] for answer in evaluated) / sum(a["count"] for a in evaluated)
    return Measurement(round_s=round_s, accuracy=accuracy, epochs_s=epochs_s)


def _span(answers: list[dict[str, Any]]) -> float:
    """Seconds from the first worker's start to the last worker's end (one clock for the machine)."""
    return float(max(a["end"] for a in answers) - min(a["start"] for a in answers))


def _send(workers: list[Connection], message: tuple[str, Any]) -> None:
    """Send a message to all workers; a `load` is waited for, so that nobody starts early."""
    for worker in workers:
        worker.send(message)
    if message[0] == "load":
        for worker in workers:
            _receive(worker)


def _receive(worker: Connection) -> Any:
    try:
        if not worker.poll(TIMEOUT_S):
            raise BenchError("a worker process of the arithmetic does not answer")
        return worker.recv()
    except (EOFError, OSError):
        raise BenchError("a worker process of the arithmetic died") from None


def _work(connection: Connection, task: _Task) -> None:
    """A worker: answers until its parent closes the pipe."""
    torch.set_num_threads(1)
    device = torch.device(task.device)
    model, train, evaluate_on = _loops(task, device)
    for partition in task.partitions[:1]:
        train(partition, 0)  # warm: lazy imports and kernel set-up belong to nobody's round
    evaluate_on(task.partitions[:1], True)
    connection.send("warm")
    while True:
        try:
            kind, value = connection.recv()
        except (EOFError, OSError):
            return
        if kind == "load":
            state = {name: tensor.to(device) for name, tensor in value.items()}
            connection.send("loaded")
            continue
        start = time.monotonic()
        answer: dict[str, Any] = {}
        if kind == "train":
            answer["updates"] = []
            for partition in task.partitions:
                model.load_state_dict(state)
                count = train(partition, value)
                answer["updates"].append(
                    ({n: t.detach().cpu().clone() for n, t in model.state_dict().items()}, count)
                )
        else:
            model.load_state_dict(state)
            mine = [partition for partition in value if partition in task.partitions]
            answer["correct"], answer["count"] = evaluate_on(mine, True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        connection.send(answer | {"start": start, "end": time.monotonic()})


Train = Callable[[int, int], int]
Evaluate = Callable[[list[int], bool], tuple[float, int]]


def _loops(task: _Task, device: torch.device) -> tuple[nn.Module, Train, Evaluate]:
    """The model; train(partition, round) -> examples; evaluate(partitions, test) -> (correct, examples) of the test."""
    if task.loop == "bouquet":
        from bench.contenders.bouquet_loop import loops

        return loops(task.store, task.partitions, task.test_part, task.model, device)
    model = build_model(task.model, task.shape, task.num_classes).to(device)
    parts = {
        p: [Examples.load(task.store / f"partition-{p}", part, device) for part in ("train", "val")]
        for p in task.partitions
    }
    everything = Examples.load(task.store, "test", device)
    number, of = task.test_part
    test = Examples(everything.images[number::of].contiguous(), everything.labels[number::of])

    def train(partition: int, server_round: int) -> int:
        train_epoch(model, parts[partition][0], seed=1000 * server_round + partition)
        return len(parts[partition][0])

    def evaluate_on(partitions: list[int], with_test: bool) -> tuple[float, int]:
        for partition in partitions:
            evaluate(model, parts[partition][1])
        return evaluate(model, test)[1] * len(test), len(test)

    return model, train, evaluate_on
