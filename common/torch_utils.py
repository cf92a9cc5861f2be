"""PyTorch set-up that every run shares."""

from __future__ import annotations

import os

import torch

from common.errors import UserError


def setup(device: str, seed: int) -> torch.device:
    """Make PyTorch deterministic, seed its global generator, and return the device.

    The number of threads is ``$OMP_NUM_THREADS`` (the runner sets it), else 1.

    Raises:
        UserError: if the device is not there.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("no CUDA device is at hand; use --device cpu (DEVICE=cpu)")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(seed)
    return torch.device(device)
