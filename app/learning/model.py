"""Models by name: the tutorial's CNN and every classifier of ``torchvision.models``."""

import difflib
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.errors import UserError
from app.settings import RunSettings

Shape = tuple[int, int, int]  # channels, height, width of a picture
SMALL = 64  # pictures up to this side get a stem that keeps their size


class MaxPool2x2(nn.MaxPool2d):
    """``nn.MaxPool2d(2)``; without gradients on a CPU by two comparisons of the whole tensor, many times as fast.

    PyTorch 2.15 pools channels-last tensors sixteen channels at a time, and the remaining ones one by one. The six
    channels of the tutorial's first layer cost as much as its convolution.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, pictures: Tensor) -> Tensor:
        """The maxima, [N, C, H // 2, W // 2], of pictures [N, C, H, W]."""
        if torch.is_grad_enabled() or pictures.device.type != "cpu":
            out: Tensor = super().forward(pictures)
            return out
        even = pictures[..., : pictures.shape[-2] // 2 * 2, : pictures.shape[-1] // 2 * 2]
        columns = torch.maximum(even[..., 0::2], even[..., 1::2])
        return torch.maximum(columns[..., 0::2, :], columns[..., 1::2, :])


class CNN(nn.Module):
    """The tutorial's network: two 5x5 convolutions and three dense layers.

    62,006 parameters for 3x32x32 pictures and ten classes.

    Raises:
        UserError: pictures smaller than 16x16, of which nothing is left after the second pool.
    """

    def __init__(self, shape: Shape, num_classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))
        if rows < 1 or columns < 1:
            raise UserError(f"model 'cnn' needs pictures of at least 16x16, not {height}x{width}")
        self.conv1 = nn.Conv2d(channels, 6, 5)
        self.pool = MaxPool2x2()
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * rows * columns, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits [N, classes] of pictures [N, C, H, W]."""
        # Pooling before the ReLU gives the same numbers and gradients, with a quarter of the ReLU's work.
        x = F.relu(self.pool(self.conv1(pictures)))
        x = F.relu(self.pool(self.conv2(x)))
        x = x.flatten(1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        out: Tensor = self.fc3(x)
        return out


def build_model(
    settings: RunSettings, shape: Shape, num_classes: int, *, load_weights: bool = True
) -> nn.Module:
    """The model that ``settings`` name, for pictures of ``shape`` (C, H, W), float32 on the CPU.

    The first weights depend on ``settings.seed`` alone, or come from the file ``settings.weights``. A client
    passes ``load_weights=False``, because it has no such file and gets its weights from the server. The
    caller's random state does not change.

    Raises:
        UserError: an unknown name, a shape the model cannot take, or a weights file that does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        model = (
            CNN(shape, num_classes)
            if settings.model == "cnn"
            else _torchvision(settings.model, shape, num_classes)
        )
    if settings.norm == "group":
        _group_norm(model)
    elif settings.privacy != "none" and any(
        isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()
    ):
        # Clipping and noise change running variances too, and a negative variance makes NaN.
        raise UserError(f"privacy={settings.privacy!r} with model {settings.model!r} needs norm='group'")
    if settings.model != "cnn":
        _try_one_picture(model, settings.model, shape)
    if settings.weights and load_weights:
        _load_weights(model, Path(settings.weights))
    return model


def model_names() -> list[str]:
    """Every name that ``model`` may have."""
    import torchvision  # costs a second, and the CNN has no use for it

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return ["cnn", *names]


def check_model_name(name: str) -> None:
    """Raise :class:`UserError` with the nearest names when there is no such model."""
    if name == "cnn":
        return
    names = model_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3) or ["cnn", "resnet18", "mobilenet_v3_small"]
        raise UserError(f"run config: there is no model {name!r}; near it are {', '.join(close)}")


def _torchvision(name: str, shape: Shape, num_classes: int) -> nn.Module:
    check_model_name(name)
    from torchvision.models import get_model

    channels, height, width = shape
    options: dict[str, object] = {"weights": None, "num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        options["image_size"] = height
    try:
        model: nn.Module = get_model(name, **options)
    except (ValueError, AssertionError) as error:
        raise UserError(f"model {name!r} cannot take {height}x{width} pictures: {error}") from None
    name_of_first, first = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    kernel, stride, padding = first.kernel_size[0], first.stride[0], int(first.padding[0])
    if max(height, width) <= SMALL and stride == 2:
        # The stem of the ResNet paper for CIFAR-10 (section 4.2): 3x3, stride 1, no pool. The usual 7x7 with
        # stride 2 and a pool leaves 8x8 of a 32x32 picture before the first block. Networks that begin with
        # a 3x3 convolution (MobileNet, EfficientNet) only lose its stride.
        if kernel > 3:
            pool = next((n for n, m in model.named_modules() if isinstance(m, nn.MaxPool2d)), None)
            if pool:
                _replace(model, pool, nn.Identity())
        kernel, stride, padding = 3, 1, 1
    if (channels, kernel, stride) != (first.in_channels, first.kernel_size[0], first.stride[0]):
        conv = nn.Conv2d(channels, first.out_channels, kernel, stride, padding, bias=first.bias is not None)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        _replace(model, name_of_first, conv)
    return model


def _group_norm(model: nn.Module) -> None:
    """Replace every BatchNorm by a GroupNorm, in place.

    BatchNorm's running mean and variance describe one client's data. Their average over clients with different
    labels describes no client, and the global model loses accuracy that more rounds do not bring back (Hsieh et al. 2020, "The Non-IID Data Quagmire"). GroupNorm normalises each picture by itself.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            channels = module.num_features
            # Eight channels or more a group, so that 1x1 maps still have something to normalise over.
            groups = max(
                g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0 and (channels // g >= 8 or g == 1)
            )
            norm = nn.GroupNorm(groups, channels, eps=module.eps)
            with torch.no_grad():
                norm.weight.copy_(module.weight)
                norm.bias.copy_(module.bias)
            _replace(model, name, norm)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _try_one_picture(model: nn.Module, name: str, shape: Shape) -> None:
    """Raise UserError for a picture size that the network shrinks to nothing."""
    model.eval()
    try:
        with torch.inference_mode():
            model(torch.zeros(1, *shape))
    except (RuntimeError, AssertionError, ValueError) as error:
        size = "x".join(map(str, shape))
        raise UserError(f"model {name!r} cannot take {size} pictures: {str(error).splitlines()[0]}") from None
    finally:
        model.train()


def _load_weights(model: nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        loaded: Mapping[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"weights: cannot read {path} as a safetensors file: {error}") from None
    state = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    for name, tensor in state.items():
        if name not in loaded:
            raise UserError(f"weights: {path} has no {name!r}, so it is of another model")
        if loaded[name].shape != tensor.shape:
            raise UserError(
                f"weights: {name!r} is {list(loaded[name].shape)} in {path}, not {list(tensor.shape)}"
            )
    model.load_state_dict({name: loaded[name] for name in state}, strict=False)


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
