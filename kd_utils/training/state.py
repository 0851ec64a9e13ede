"""What changes while a training goes on, and so what a checkpoint holds."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from kd_utils.common.devices import Runtime
from kd_utils.config import TrainConfig
from kd_utils.models.student import Student
from kd_utils.training import optimizers
from kd_utils.training.adversarial import Critic
from kd_utils.training.validation import History


@dataclass
class TrainState:
    """The networks, the optimiser and the history of a training after `step` steps."""

    net: Student
    ema: Student  # the running mean of the weights, which is what ships
    optimizer: torch.optim.Optimizer
    scaler: GradScaler
    history: History
    critic: Critic | None = None  # where the loss has an adversarial term
    step: int = 0

    @classmethod
    def initial(cls, net: Student, settings: TrainConfig, runtime: Runtime) -> TrainState:
        """The state before the first step, on the device and in the precision of `runtime`."""
        device = runtime.device
        net = net.to(device)
        if runtime.dtype == torch.float64:
            net = net.double()
        if device.type == "cuda" or runtime.dtype == torch.bfloat16:
            net = net.to(memory_format=torch.channels_last)  # pyright: ignore (torch 2.11 lacks this overload)

        ema = deepcopy(net).requires_grad_(False).eval()
        fused = device.type == "cuda"
        optimizer = optimizers.make_optimizer(settings.optimizer, net.parameters(), settings.lr, settings.betas, fused)
        scaler = GradScaler(device.type, enabled=runtime.needs_scaler)
        return cls(net, ema, optimizer, scaler, History())

    def to_dict(self) -> dict[str, Any]:
        state = {
            "net": self.net.state_dict(),
            "ema": self.ema.state_dict(),
            "opt": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": self.history.to_dict(),
        }
        if self.critic:
            state["critic"] = self.critic.state_dict()
        return state

    def restore(self, step: int, saved: dict[str, Any]) -> None:
        """Go on from a checkpoint of `step`."""
        self.net.load_state_dict(saved["net"])
        self.ema.load_state_dict(saved["ema"])

        optimizers.load_optimizer_state(self.optimizer, saved["opt"])
        if saved["scaler"]:  # it is empty where a device without a scaler wrote it
            self.scaler.load_state_dict(saved["scaler"])
        if self.critic:
            self.critic.load_state_dict(saved["critic"])
        self.history = History.from_dict(saved["history"])
        self.step = step


@torch.no_grad()
def update_ema(ema: nn.Module, net: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1 - decay)  # pyright: ignore (not in its types)


class LossMeter:
    """The mean loss since it was last asked for, over all processes."""

    def __init__(self, runtime: Runtime):
        dtype = torch.float32 if runtime.device.type == "mps" else torch.float64
        self.total = torch.zeros((), device=runtime.device, dtype=dtype)
        self.count = 0
        self.world = runtime.world

    def add(self, loss: Tensor) -> None:
        self.total += loss
        self.count += 1

    def mean(self) -> float:
        if self.world > 1:
            torch.distributed.all_reduce(self.total)
        mean = self.total.item() / self.count / self.world
        self.total.zero_()
        self.count = 0
        return mean
