"""The batches of a training, loaded ahead of the step that needs them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from kd_utils.common.devices import Runtime
from kd_utils.common.tensors import bicubic
from kd_utils.config import Config
from kd_utils.data.crops import Batch, Crops, sample_batch

AHEAD = 3  # batches that are loaded before they are needed


def batches(crops: Crops, cfg: Config, seed: int, runtime: Runtime, first: int) -> Iterator[Batch]:
    """This process's part of the batch of each step from `first` on, as uint8 on the CPU; two threads load it."""
    settings = cfg.train

    def load(step: int) -> Batch:
        plan = sample_batch(seed, step, settings.batch, len(crops)).part(runtime.rank, runtime.world)
        batch = crops.batch(plan)
        if settings.clean_inputs:
            batch = with_clean_inputs(batch, plan.draws < settings.clean_inputs, cfg.loss.has_teacher)
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


def with_clean_inputs(batch: Batch, clean: np.ndarray, has_teacher: bool) -> Batch:
    """Some crops, those where `clean` (N,) is true, with another input: the label made smaller, by bicubic resizing.

    A label is what the teacher would have others see, so it is the answer to itself made smaller, and no new label has
    to be computed (ECO, Lee and Heo 2024, arXiv:2312.17526). It shows the student clean pictures, which no degradation
    leaves. Without a teacher, for the baseline, the original stands for the label.
    """
    which = torch.from_numpy(clean)
    if not which.any():
        return batch
    picture = (batch.label if has_teacher else batch.hr)[which]  # (K, H, W, 3)
    height, width = batch.lr.shape[1:3]
    small = bicubic(picture.permute(0, 3, 1, 2).float(), (height, width)).round().clamp(0, 255)
    lr, label, hr = batch.lr.clone(), batch.label.clone(), batch.hr.clone()
    lr[which] = small.permute(0, 2, 3, 1).to(torch.uint8)
    label[which] = hr[which] = picture
    return Batch(lr, label, hr, batch.positions)


def to_device(batch: Batch, runtime: Runtime) -> Batch:
    """uint8 (N, H, W, 3) on the CPU -> float (N, 3, H, W) in [0, 1] on the device."""
    dtype = torch.float64 if runtime.dtype == torch.float64 else torch.float32

    def move(images: Tensor) -> Tensor:
        x = images.to(runtime.device, non_blocking=True).permute(0, 3, 1, 2)
        if not runtime.is_half:  # in fp32 a step of m takes a fifth less in the order of planes
            x = x.contiguous()
        return x.to(dtype) / 255

    return Batch(move(batch.lr), move(batch.label), move(batch.hr), batch.positions)
