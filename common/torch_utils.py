"""PyTorch set-up that every run shares."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

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


class GlobalRandom:
    """PyTorch's global generators (CPU and every CUDA device) as a thing that a run keeps."""

    def state(self) -> dict[str, Any]:
        """The states: "cpu", and "cuda", a list by device that is empty where CUDA is not used."""
        used = torch.cuda.is_available() and torch.cuda.is_initialized()
        cuda = torch.cuda.get_rng_state_all() if used else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load(self, state: Mapping[str, Any]) -> None:
        """Set the generators to what :meth:`state` gave; devices that are not here are left out."""
        torch.set_rng_state(state["cpu"])
        for index, of_device in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(of_device, index)
