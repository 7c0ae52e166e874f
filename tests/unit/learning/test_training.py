"""Training does the tutorial's arithmetic, repeats bit for bit, and reports means over examples."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import transforms

from app.errors import UserError
from app.learning.batches import PAD, Examples, augment, epoch, normalise
from app.learning.data.store import Split
from app.learning.model import build_model
from app.learning.optimizer import learning_rate
from app.learning.training import choose_device, evaluate, round_seed, train
from app.learning.weights import get_arrays
from app.settings import RunSettings

CPU = torch.device("cpu")
SHAPE = (3, 32, 32)
RNG = np.random.default_rng(0)


def split(count: int = 100, shape: tuple[int, int, int] = SHAPE) -> Split:
    labels = RNG.integers(0, 10, count)
    # Brightness tells the class, so that there is something to learn.
    images = (RNG.integers(0, 60, (count, *shape)) + 19 * labels[:, None, None, None]).astype(np.uint8)
    return Split(images, labels)


DATA = split()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def trained(settings: RunSettings, data: Split = DATA, **options: int) -> tuple[nn.Module, dict[str, float]]:
    model = build_model(settings, SHAPE, 10)
    metrics = train(model, data, settings, seed=options.pop("seed", 1), device=CPU, **options)  # type: ignore[arg-type]
    return model, metrics


def test_normalising_is_the_tutorials_transform_bit_for_bit() -> None:
    tutorial = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])
    pictures = np.arange(256, dtype=np.uint8).repeat(12).reshape(1, 3, 32, 32)
    expected = tutorial(np.moveaxis(pictures[0], 0, -1))
    assert torch.equal(normalise(torch.from_numpy(pictures))[0], expected)


@pytest.mark.parametrize(
    "keys",
    [
        {"optimizer": "adam"},
        {"optimizer": "adam", "weight_decay": 0.1},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.01},
        {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.0},
    ],
)
def test_training_equals_the_plain_loop_with_pytorchs_optimizer(keys: dict[str, object]) -> None:
    settings = RunSettings(local_epochs=2, **keys)  # type: ignore[arg-type]
    model, metrics = trained(settings)
    plain = build_model(settings, SHAPE, 10)
    named = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    options = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer == "sgd":
        options["momentum"] = settings.momentum
    optimizer = named[settings.optimizer](plain.parameters(), **options)
    generator, images, labels = (
        torch.Generator().manual_seed(1),
        normalise(torch.from_numpy(DATA.images)),
        DATA.labels,
    )
    total, correct = 0.0, 0
    for _ in range(2):
        for indices in torch.randperm(100, generator=generator).split(32):
            optimizer.zero_grad()
            logits = plain(images[indices])
            target = torch.from_numpy(labels)[indices]
            loss = F.cross_entropy(logits, target)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(indices)
            correct += int((logits.argmax(1) == target).sum())
    assert metrics["train_loss"] == pytest.approx(total / 200, rel=1e-5)
    assert metrics["train_accuracy"] == pytest.approx(correct / 200, abs=0.011)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.contiguous(), theirs, rtol=1e-3, atol=2e-4, msg=name)


def test_a_seed_repeats_bit_for_bit_and_leaves_the_callers_random_state_alone() -> None:
    settings = RunSettings(augment=True, model="mobilenet_v3_small", batch_size=16)  # has dropout
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, metrics = trained(settings, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    second, again = trained(settings, seed=3)
    other, _ = trained(settings, seed=4)
    assert metrics == again
    one, two, three = (get_arrays(m) for m in (first, second, other))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert any(not np.array_equal(one[name], three[name]) for name in one)


def test_seeds_differ_between_clients_rounds_and_runs() -> None:
    seeds = {round_seed(s, p, r) for s in range(5) for p in range(10) for r in range(10)}
    assert len(seeds) == 500 and all(0 <= seed < 2**63 for seed in seeds)
    assert round_seed(42, 3, 1) == round_seed(42, 3, 1)


def test_it_learns() -> None:
    model, metrics = trained(RunSettings(local_epochs=30))
    loss, accuracy = evaluate(model, DATA, device=CPU)
    assert accuracy > 0.6 and loss < 1.2
    assert metrics["train_accuracy"] < accuracy


def test_the_proximal_term_is_the_gradient_of_its_formula() -> None:
    settings = RunSettings(
        strategy="fedprox", proximal_mu=0.7, optimizer="sgd", momentum=0.0, learning_rate=0.1
    )
    model = build_model(settings, SHAPE, 10)
    centre = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    few = Split(DATA.images[:8], DATA.labels[:8])
    train(model, few, settings, seed=1, device=CPU, global_params=centre)
    plain = build_model(settings, SHAPE, 10)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    images, labels = (
        normalise(torch.from_numpy(few.images[order.numpy()])),
        torch.from_numpy(few.labels[order.numpy()]),
    )
    distance = sum(((p - centre[name]) ** 2).sum() for name, p in plain.named_parameters())
    (F.cross_entropy(plain(images), labels) + 0.7 / 2 * distance).backward()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert theirs.grad is not None
        expected = theirs.detach() - 0.1 * theirs.grad
        torch.testing.assert_close(ours.detach().contiguous(), expected, rtol=1e-4, atol=1e-5, msg=name)


def test_evaluation_does_not_depend_on_batches() -> None:
    model = build_model(RunSettings(), SHAPE, 10)
    whole = evaluate(model, DATA, device=CPU, batch_size=100)
    for size in (1, 7, 64):
        assert evaluate(model, DATA, device=CPU, batch_size=size) == pytest.approx(whole, rel=1e-5)
    logits = model(normalise(torch.from_numpy(DATA.images)))
    labels = torch.from_numpy(DATA.labels)
    assert whole[0] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert whole[1] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert evaluate(model, Split(DATA.images[:0], DATA.labels[:0]), device=CPU) == (0.0, 0.0)


def test_batchnorm_survives_a_lone_last_picture() -> None:
    settings = RunSettings(model="resnet18", batch_size=4)
    _, metrics = trained(settings, Split(DATA.images[:9, :, :16, :16].copy(), DATA.labels[:9]))
    assert np.isfinite(metrics["train_loss"])
    sizes = [
        [
            len(labels)
            for _, labels in epoch(Examples(DATA, CPU), 33, torch.Generator(), augmented=False, lone_last=way)
        ]
        for way in (True, False)
    ]
    assert sizes == [[33, 33, 33, 1], [33, 33, 34]]


def test_augmenting_crops_and_flips_each_picture_by_itself() -> None:
    images = (
        torch.arange(1, 32 * 32 + 1)
        .remainder(251)
        .add(1)
        .to(torch.uint8)
        .reshape(1, 1, 32, 32)
        .repeat(200, 1, 1, 1)
    )
    out = augment(images, torch.Generator().manual_seed(0))
    assert out.dtype == torch.uint8 and out.shape == images.shape
    padded = F.pad(images[0, 0], (PAD,) * 4)
    crops = {}
    for down in range(2 * PAD + 1):
        for right in range(2 * PAD + 1):
            crop = padded[down : down + 32, right : right + 32]
            crops[crop.numpy().tobytes()] = (down, right, False)
            crops[crop.flip(1).numpy().tobytes()] = (down, right, True)
    found = [crops[picture[0].numpy().tobytes()] for picture in out]  # KeyError: not a crop at all
    assert len(set(found)) > 80
    assert 60 < sum(flipped for _, _, flipped in found) < 140
    assert torch.equal(out, augment(images, torch.Generator().manual_seed(0)))


def test_augmenting_treats_the_channels_of_a_picture_alike() -> None:
    images = torch.from_numpy(DATA.images[:, :1]).repeat(1, 3, 1, 1)
    out = augment(images, torch.Generator().manual_seed(0))
    assert torch.equal(out[:, 0], out[:, 1]) and torch.equal(out[:, 0], out[:, 2])


def test_learning_rate_schedules() -> None:
    constant = RunSettings(learning_rate=0.1, num_server_rounds=10)
    assert {learning_rate(constant, r) for r in range(1, 11)} == {0.1}
    cosine = constant.model_copy(update={"lr_schedule": "cosine"})
    rates = [learning_rate(cosine, r) for r in range(1, 11)]
    assert rates[0] == 0.1 and rates == sorted(rates, reverse=True) and 0 < rates[-1] < 0.01
    step = constant.model_copy(update={"lr_schedule": "step", "lr_step_rounds": 4, "lr_gamma": 0.5})
    assert [learning_rate(step, r) for r in (1, 4, 5, 8, 9)] == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025])
    one = RunSettings(lr_schedule="step", lr_step_rounds=1, lr_gamma=0.001)
    late, early = (trained(one, server_round=r)[0] for r in (3, 1))
    start = get_arrays(build_model(one, SHAPE, 10))["fc3.bias"]
    moved = [float(np.abs(get_arrays(m)["fc3.bias"] - start).max()) for m in (late, early)]
    assert moved[0] < 1e-5 < moved[1]


@pytest.mark.parametrize("value", ["gpu", "cuda:x", "cuda:99", "tpu"])
def test_a_device_that_is_not_there_is_said(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOUQUET_DEVICE", value)
    with pytest.raises(UserError, match="BOUQUET_DEVICE"):
        choose_device()


def test_cpu_is_the_device_where_asked_or_where_there_is_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BOUQUET_DEVICE", "cpu")
    assert choose_device(3) == CPU
    monkeypatch.delenv("BOUQUET_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(3) == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [choose_device(i).index for i in range(4)] == [0, 1, 0, 1]


def test_training_does_not_import_the_compiler() -> None:
    code = (
        "import sys, numpy as np, torch\n"
        "from app.learning.model import build_model; from app.learning.data.store import Split\n"
        "from app.learning.training import train, evaluate; from app.settings import RunSettings\n"
        "s = RunSettings(); m = build_model(s, (3, 32, 32), 10)\n"
        "d = Split(np.zeros((4, 3, 32, 32), np.uint8), np.zeros(4, np.int64)); c = torch.device('cpu')\n"
        "train(m, d, s, seed=1, device=c); evaluate(m, d, device=c)\n"
        "print('torch._dynamo' in sys.modules, 'torchvision' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300
    )
    assert out.stdout.split() == ["False", "False"]
