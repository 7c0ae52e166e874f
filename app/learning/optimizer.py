"""Adam, AdamW and SGD by PyTorch's functional forms.

``torch.optim.Adam`` imports ``torch._dynamo`` when the first one is made: 0.9 s of CPU and 150 MB for a
compiler that nothing here uses, in every client. The functional forms do the same arithmetic without it.
"""

import math

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from app.settings import RunSettings


class Optimizer:
    """One round's optimizer over the trainable parameters of ``model``, with fresh state."""

    def __init__(self, model: nn.Module, settings: RunSettings, learning_rate: float) -> None:
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self._settings = settings
        self._learning_rate = learning_rate
        self._momenta: list[Tensor | None] = [None] * len(self.parameters)  # sgd
        if settings.optimizer != "sgd":
            self._averages = [torch.zeros_like(p) for p in self.parameters]
            self._squares = [torch.zeros_like(p) for p in self.parameters]
            self._steps = [torch.zeros((), device=p.device) for p in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters from their gradients, and drop the gradients."""
        settings = self._settings
        used = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        parameters = [self.parameters[i] for i in used]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if settings.optimizer == "sgd":
            momenta = [self._momenta[i] for i in used]
            sgd(
                parameters,
                gradients,
                momenta,
                fused=settings.momentum == 0,  # the fused form wants its buffers beforehand
                foreach=False,
                weight_decay=settings.weight_decay,
                momentum=settings.momentum,
                lr=self._learning_rate,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
            for i, momentum in zip(used, momenta, strict=True):
                self._momenta[i] = momentum
        else:
            adam(
                parameters,
                gradients,
                [self._averages[i] for i in used],
                [self._squares[i] for i in used],
                [],
                [self._steps[i] for i in used],
                fused=True,
                decoupled_weight_decay=settings.optimizer == "adamw",
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=self._learning_rate,
                weight_decay=settings.weight_decay,
                eps=1e-8,
                maximize=False,
            )
        for parameter in parameters:
            parameter.grad = None


def learning_rate(settings: RunSettings, server_round: int) -> float:
    """The rate of round ``server_round`` (from 1) under ``lr-schedule``."""
    done = max(server_round - 1, 0)
    if settings.lr_schedule == "cosine":
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done / settings.num_server_rounds))
    if settings.lr_schedule == "step":
        return settings.learning_rate * settings.lr_gamma ** (done // settings.lr_step_rounds)
    return settings.learning_rate
