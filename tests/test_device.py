"""Where a run computes. There is no GPU here: torch's answers are put in where a GPU would give them."""

import pytest
import torch

from kd_utils.common import devices
from kd_utils.config import ConfigError


def test_a_device_that_is_not_here_is_named():
    for name in ("abacus", "cuda:99", "mps:3"):
        with pytest.raises(ConfigError, match=f"device='{name}' cannot be used here .* try device=auto or device=cpu"):
            devices.resolve_device(name)
    assert devices.resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_of_torchrun_takes_the_gpu_of_its_number(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert devices.resolve_device(name) == torch.device("cuda", 3)
    assert devices.resolve_device("cuda:1") == torch.device("cuda", 1)


def test_bf16_that_a_cpu_only_imitates_is_warned_of(monkeypatch):
    monkeypatch.setattr(devices.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(devices, "has_fast_bf16", lambda: False)
    said = devices.bf16_warning(torch.device("cpu"), "label.dtype", "bf16")
    assert "far slower than fp32" in said and "--set label.dtype=fp32" in said
    assert not devices.bf16_warning(torch.device("cpu"), "label.dtype", "fp32")
    assert not devices.bf16_warning(torch.device("cuda"), "label.dtype", "bf16")
    monkeypatch.setattr(devices, "has_fast_bf16", lambda: True)
    assert not devices.bf16_warning(torch.device("cpu"), "label.dtype", "bf16")


@pytest.mark.parametrize(
    ("gpu", "capability", "trains", "infers"),
    [
        ("NVIDIA A100-SXM4-40GB", (8, 0), torch.bfloat16, torch.float16),
        ("Tesla T4", (7, 5), torch.float16, torch.float16),
        ("NVIDIA GeForce GTX 1660 Ti", (7, 5), torch.float32, torch.float32),  # NaN in fp16
    ],
)
def test_precision_by_gpu(gpu, capability, trains, infers, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    cuda = torch.device("cuda", 0)
    assert devices.training_dtype(cuda) == trains and devices.inference_dtype(cuda) == infers
    assert devices.Runtime(cuda, trains).needs_scaler == (trains == torch.float16)
