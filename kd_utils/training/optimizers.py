"""The optimisers and the learning rate: Adam, and SOAP for training that must be short (docs/LOG.md has the trials)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kd_utils.config import TrainConfig


class SOAP(torch.optim.Optimizer):
    """Adam in the eigenbasis of Shampoo's preconditioners (Vyas et al. 2024, arXiv:2409.11321, algorithm 3).

    A weight of two or more dimensions is seen as a matrix G of (out, in * kernel); L = E[G G^T] and R = E[G^T G] are
    running means, and Q_L, Q_R their eigenvectors, refreshed every `every` steps by one step of orthogonal iteration.
    The moments of Adam are kept in that basis. Biases and slopes get plain Adam. The first step of a matrix only
    fills L and R. For kernels of up to a few hundred inputs, as ours: R has (in * kernel)^2 entries.

    The same machine and number of threads repeat a training to the bit. Another order of the same sums does not: where
    no gradient was seen yet the bases are arbitrary, and rounding chooses them.
    """

    def __init__(self, params, lr: float, betas: tuple[float, float] = (0.95, 0.95), every: int = 10):
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "every": every})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)

    def _update(self, p: Tensor, gradient: Tensor, group: dict) -> None:
        grad = gradient.flatten(1) if p.dim() > 1 else gradient
        state, (b1, b2) = self.state[p], group["betas"]
        is_matrix = p.dim() > 1
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(grad), "square": torch.zeros_like(grad)}
            if is_matrix:  # the first step only fills the preconditioners
                state |= {"L": grad @ grad.T, "R": grad.T @ grad}
                state["QL"] = _eigenvectors(state["L"]).flip(1)
                state["QR"] = _eigenvectors(state["R"]).flip(1)
                return

        # into the eigenbasis
        state["step"] += 1
        state["mean"].lerp_(grad, 1 - b1)
        mean, turned = state["mean"], grad
        if is_matrix:
            left, right = state["QL"], state["QR"]
            turned, mean = left.T @ grad @ right, left.T @ mean @ right

        # Adam there
        state["square"].lerp_(turned.square(), 1 - b2)
        size = (state["square"] / (1 - b2 ** state["step"])).sqrt_().add_(1e-8)
        update = mean / (1 - b1 ** state["step"]) / size

        # and back; the basis follows the preconditioners
        if is_matrix:
            update = left @ update @ right.T
            state["L"].lerp_(grad @ grad.T, 1 - b2)
            state["R"].lerp_(grad.T @ grad, 1 - b2)
            if state["step"] == 1 or state["step"] % group["every"] == 0:
                self._refresh(state)
        p.sub_(group["lr"] * update.view_as(p))

    @staticmethod
    def _refresh(state: dict) -> None:
        """One orthogonal iteration of both bases, eigenvectors sorted by eigenvalue; the second moments move along."""
        for axis, side in enumerate("LR"):
            matrix, basis = state[side], state[f"Q{side}"]
            order = ((matrix @ basis) * basis).sum(0).argsort(descending=True)
            state["square"] = state["square"].index_select(axis, order)
            state[f"Q{side}"] = torch.linalg.qr(matrix @ basis[:, order]).Q


def _eigenvectors(matrix: Tensor) -> Tensor:
    """Of a symmetric matrix, by rising eigenvalue. A first R has few that are not 0, over which CUDA's solver can fail
    in fp32.
    """
    try:
        return torch.linalg.eigh(matrix).eigenvectors
    except RuntimeError:  # LinAlgError is one
        return torch.linalg.eigh(matrix.double()).eigenvectors.to(matrix.dtype)


def make_optimizer(name: str, params, lr: float, betas: list[float], fused: bool = False) -> torch.optim.Optimizer:
    """`name`: "adam", or "soap" (its betas are its own: .95 for both moments, as its authors advise)."""
    if name == "soap":
        return SOAP(params, lr)
    return torch.optim.Adam(params, lr, (betas[0], betas[1]), fused=fused)


def load_optimizer_state(opt: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a checkpoint's state, also one of another device: Adam stays fused, or not, as `make_optimizer` made it."""
    for saved, here in zip(state["param_groups"], opt.param_groups, strict=True):
        saved |= {k: here[k] for k in ("fused",) if k in here}
    opt.load_state_dict(state)


def learning_rate(settings: TrainConfig, step: int) -> float:
    """Linear warm-up, then half a cosine from `lr` to `lr_end`."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    cosine = (1 + math.cos(math.pi * min(1, done))) / 2
    return settings.lr_end + (settings.lr - settings.lr_end) * cosine
