"""PyTorch set-up that every run shares."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError


def setup(device: str, seed: int) -> torch.device:
    """Make PyTorch deterministic, seed its global generator, and return the device.

    Deterministic means the same numbers bit for bit on one machine, with as many threads; another
    processor rounds a matrix product otherwise, and training makes that visible.

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


def cumulative_sum(x: Tensor) -> Tensor:
    """``x.cumsum(-1)`` that is deterministic on a GPU too, and differentiable. [..., N].

    CUDA has no deterministic kernel for sums of floating-point numbers; there it is a product with
    a triangle of ones, so N should be some hundreds at most.
    """
    if x.device.type == "cpu" or not x.is_floating_point():
        return x.cumsum(-1)
    return x @ torch.ones(x.shape[-1], x.shape[-1], dtype=x.dtype, device=x.device).triu()


def cumulative_probability(p: Tensor) -> Tensor:
    """Cumulative sums of probabilities, from which no index of probability zero is drawn. [..., N].

    They never decrease and stay exactly the same over a zero. ``p.cumsum(-1)`` does so on the CPU;
    on a GPU it is neither deterministic nor monotone, so the sum is one of whole numbers there, of
    units of 2^-40.
    """
    if p.device.type == "cpu":
        return p.cumsum(-1)
    return ((p.double() * 2.0**40).round().long().cumsum(-1).double() * 2.0**-40).to(p.dtype)


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
