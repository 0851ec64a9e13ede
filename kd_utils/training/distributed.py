"""Many processes that train one student (torchrun)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd_utils.common.devices import Runtime
from kd_utils.common.errors import TrainError


def join_processes(runtime: Runtime) -> None:
    """Join torchrun's processes, if it started us."""
    if runtime.world == 1:
        return
    if runtime.device.type == "cuda":
        torch.cuda.set_device(runtime.device)
    torch.distributed.init_process_group("nccl" if runtime.device.type == "cuda" else "gloo")


def leave_processes(runtime: Runtime) -> None:
    if runtime.world > 1:
        torch.distributed.destroy_process_group()


def wait_for_all(runtime: Runtime) -> None:
    """Wait until every process has come here."""
    if runtime.world > 1:
        torch.distributed.barrier()


def share_gradients(net: nn.Module, runtime: Runtime) -> nn.Module:
    """The network whose gradients all processes share."""
    if runtime.world == 1:
        return net
    devices = [runtime.device] if runtime.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(net, devices)


def average_gradients(net: nn.Module, runtime: Runtime) -> None:
    """Give every process the mean gradient of all, for a network that is not wrapped by `share_gradients`."""
    if runtime.world == 1:
        return
    for p in net.parameters():
        if p.grad is not None:
            torch.distributed.all_reduce(p.grad)
            p.grad /= runtime.world


def require_same_resume_step(runtime: Runtime, folder: Path, first: int | str) -> None:
    """Raises TrainError in every process where they would not all go on from the same step: each would train alone."""
    if runtime.world == 1:
        return
    steps: list[Any] = [None] * runtime.world
    torch.distributed.all_gather_object(steps, first)
    if len(set(steps)) > 1:
        raise TrainError(
            f"the processes would go on from different steps ({', '.join(map(str, steps))} by rank): {folder} must "
            "hold the same checkpoints on every machine; name a --workdir that all of them share, or copy it"
        )
