"""What a progress bar says beside its ETA: pictures a second and the memory in use."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch


def beside(bar: Any, device: torch.device, batch: int = 0) -> dict[str, str]:
    """For a tqdm bar's `set_postfix`. `batch`: the pictures in a step; 0 where a step of the bar is a picture."""
    told = {}
    rate = bar.format_dict.get("rate") if batch else None
    if rate:
        told["images/s"] = f"{rate * batch:.3g}"
    if used := memory_in_use(device):
        told["memory"] = f"{used / 1e9:.1f} GB"
    return told


def memory_in_use(device: torch.device) -> int:
    """Bytes: of a GPU what torch holds there, else of this process; 0 where that cannot be known."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096
    except (OSError, ValueError, IndexError):
        pass
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
