"""Models by name, for any picture and any number of classes, and clear words for what cannot be."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from app.errors import UserError
from app.learning.model import CNN, MaxPool2x2, build_model, check_model_name, count_parameters, model_names
from app.settings import RunSettings


def test_the_default_is_the_tutorials_network() -> None:
    model = build_model(RunSettings(), (3, 32, 32), 10)
    assert isinstance(model, CNN) and count_parameters(model) == 62_006
    assert list(dict(model.named_children())) == ["conv1", "pool", "conv2", "fc1", "fc2", "fc3"]
    assert [tuple(p.shape) for p in model.parameters() if p.dim() > 1] == [
        (6, 3, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)
    ]  # fmt: skip


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(3, 6, 28, 28), (2, 16, 7, 9), (1, 1, 2, 3)])
def test_pooling_without_gradients_gives_the_same_maxima(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    pictures = torch.randn(shape).contiguous(memory_format=layout)
    with torch.inference_mode():
        quick = MaxPool2x2()(pictures)
    assert torch.equal(quick, nn.MaxPool2d(2)(pictures))


def test_pooling_before_the_relu_changes_neither_values_nor_gradients() -> None:
    model = build_model(RunSettings(), (3, 32, 32), 10)
    assert isinstance(model, CNN)
    pictures = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def as_written_in_the_tutorial(x: torch.Tensor) -> torch.Tensor:
        x = model.pool(torch.relu(model.conv1(x)))
        x = model.pool(torch.relu(model.conv2(x))).flatten(1)
        out: torch.Tensor = model.fc3(torch.relu(model.fc2(torch.relu(model.fc1(x)))))
        return out

    results = []
    for forward in (model, as_written_in_the_tutorial):
        model.zero_grad()
        logits = forward(pictures)
        logits.square().sum().backward()
        results.append((logits.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("cnn", (1, 28, 28), 10),
        ("cnn", (3, 64, 48), 7),
        ("resnet18", (3, 32, 32), 100),
        ("resnet18", (1, 28, 28), 10),
        ("mobilenet_v3_small", (3, 32, 32), 10),
        ("densenet121", (1, 32, 32), 2),
        ("squeezenet1_1", (3, 96, 96), 5),
        ("vit_b_16", (3, 32, 32), 10),
    ],
)
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_every_model_takes_the_pictures_and_names_the_classes(
    name: str, shape: tuple[int, int, int], classes: int, norm: str
) -> None:
    model = build_model(RunSettings(model=name, norm=norm), shape, classes)  # type: ignore[arg-type]
    logits = model(torch.zeros(2, *shape))
    assert logits.shape == (2, classes) and model.training
    logits.sum().backward()
    has_batchnorm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    assert not (norm == "group" and has_batchnorm)


def test_small_pictures_keep_their_size_in_the_stem() -> None:
    small, large = (build_model(RunSettings(model="resnet18"), (3, side, side), 10) for side in (32, 128))
    conv = small.get_submodule("conv1")
    assert isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3) and conv.stride == (1, 1)
    assert isinstance(small.get_submodule("maxpool"), nn.Identity)
    assert isinstance(large.get_submodule("maxpool"), nn.MaxPool2d)
    first = build_model(RunSettings(model="mobilenet_v3_small"), (3, 32, 32), 10).get_submodule(
        "features.0.0"
    )
    assert isinstance(first, nn.Conv2d) and first.stride == (1, 1)


def test_group_norm_has_channels_to_normalise_over() -> None:
    model = build_model(RunSettings(model="mobilenet_v3_small", norm="group"), (3, 32, 32), 10)
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    assert norms and all(m.num_channels // m.num_groups >= 8 or m.num_groups == 1 for m in norms)


def test_the_seed_decides_the_first_weights_and_nothing_else_changes() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    one, two, three = (build_model(RunSettings(seed=s), (3, 32, 32), 10) for s in (42, 42, 43))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one.get_parameter("fc1.weight"), two.get_parameter("fc1.weight"))
    assert not torch.equal(one.get_parameter("fc1.weight"), three.get_parameter("fc1.weight"))


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    trained = build_model(RunSettings(seed=7), (3, 32, 32), 10)
    save_file(trained.state_dict(), file)
    settings = RunSettings(weights=str(file))
    assert torch.equal(
        build_model(settings, (3, 32, 32), 10).get_parameter("fc1.bias"), trained.get_parameter("fc1.bias")
    )
    build_model(
        RunSettings(weights="/not/there"), (3, 32, 32), 10, load_weights=False
    )  # a client has no such file
    with pytest.raises(UserError, match=r"fc3.weight.*\[10, 84\].*\[3, 84\]"):
        build_model(settings, (3, 32, 32), 3)
    with pytest.raises(UserError, match="another model"):
        build_model(RunSettings(weights=str(file), model="mobilenet_v3_small"), (3, 32, 32), 10)
    file.write_bytes(b"nonsense")
    for weights in (str(file), str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(UserError, match="weights: cannot read"):
            build_model(RunSettings(weights=weights), (3, 32, 32), 10)


def test_weights_of_a_batchnorm_model_need_no_counters(tmp_path: Path) -> None:
    settings = RunSettings(model="resnet18", seed=7)
    state = build_model(settings, (3, 32, 32), 10).state_dict()
    save_file({k: v for k, v in state.items() if v.is_floating_point()}, tmp_path / "w")
    again = build_model(RunSettings(model="resnet18", weights=str(tmp_path / "w")), (3, 32, 32), 10)
    assert torch.equal(again.state_dict()["fc.weight"], state["fc.weight"])


def test_an_unknown_model_is_answered_with_near_names() -> None:
    with pytest.raises(UserError, match="resnet18"):
        check_model_name("resnet81")
    with pytest.raises(UserError, match="mobilenet_v3_small"):
        check_model_name("mobilenetv3_small")
    assert {"cnn", "resnet18", "mobilenet_v3_small"} <= set(model_names())
    assert not [name for name in model_names() if "rcnn" in name or "segmentation" in name]


@pytest.mark.parametrize(
    ("name", "shape"), [("cnn", (3, 12, 12)), ("alexnet", (3, 32, 32)), ("vit_b_16", (3, 30, 30))]
)
def test_pictures_too_small_for_a_model_are_said(name: str, shape: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match=f"{name}.*{shape[1]}x{shape[2]}"):
        build_model(RunSettings(model=name), shape, 10)


def test_noise_on_running_variances_is_refused() -> None:
    with pytest.raises(UserError, match="norm='group'"):
        build_model(RunSettings(model="resnet18", privacy="local"), (3, 32, 32), 10)
    build_model(RunSettings(model="resnet18", privacy="local", norm="group"), (3, 32, 32), 10)
