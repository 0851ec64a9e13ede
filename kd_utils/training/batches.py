"""The batches of a training, loaded ahead of the step that needs them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from kd_utils.common.devices import Runtime
from kd_utils.config import TrainConfig
from kd_utils.data.crops import Batch, Crops, sample_batch

AHEAD = 3  # batches that are loaded before they are needed


def batches(crops: Crops, settings: TrainConfig, seed: int, runtime: Runtime, first: int) -> Iterator[Batch]:
    """This process's part of the batch of each step from `first` on, as uint8 on the CPU; two threads load it."""

    def load(step: int) -> Batch:
        plan = sample_batch(seed, step, settings.batch, len(crops)).part(runtime.rank, runtime.world)
        batch = crops.batch(plan)
        if runtime.device.type == "cuda":
            return Batch(batch.lr.pin_memory(), batch.label.pin_memory(), batch.hr.pin_memory(), batch.positions)
        return batch

    with ThreadPoolExecutor(2) as pool:
        ahead = {step: pool.submit(load, step) for step in range(first, min(first + AHEAD, settings.steps))}
        for step in range(first, settings.steps):
            batch = ahead.pop(step).result()
            if step + AHEAD < settings.steps:
                ahead[step + AHEAD] = pool.submit(load, step + AHEAD)
            yield batch


def to_device(batch: Batch, runtime: Runtime) -> Batch:
    """uint8 (N, H, W, 3) on the CPU -> float (N, 3, H, W) in [0, 1] on the device."""
    dtype = torch.float64 if runtime.dtype == torch.float64 else torch.float32

    def move(images: Tensor) -> Tensor:
        x = images.to(runtime.device, non_blocking=True).permute(0, 3, 1, 2)
        if not runtime.is_half:  # in fp32 a step of m takes a fifth less in the order of planes
            x = x.contiguous()
        return x.to(dtype) / 255

    return Batch(move(batch.lr), move(batch.label), move(batch.hr), batch.positions)
