"""What HarmoDT is compared with beside itself: task identifiers in the state, gradient surgery.

Prompt-DT and the decision transformer without a task identifier are the shared backbone with masks
of ones, so they need nothing here.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from common.control.sequences import Windows


def with_identity(windows: Windows, task: int, n_tasks: int) -> Windows:
    """MTDT: states [B, K, s] with the task's one-hot vector appended. [B, K, s + n_tasks]"""
    states = windows.states
    identity = states.new_zeros(*states.shape[:2], n_tasks)
    identity[..., task] = 1.0
    return replace(windows, states=torch.cat((states, identity), -1))


def surgery(gradients: Tensor, generator: torch.Generator) -> Tensor:
    """PCGrad (Yu et al. 2020): the mean of the gradients after conflicts are projected away. [P]

    In a random order each gradient loses, for every other one that it has a negative inner product
    with, its component along that (unprojected) gradient.

    Args:
        gradients: [N, P].
        generator: on the CPU.
    """
    n = len(gradients)
    lengths = gradients.square().sum(1)  # [N]
    projected = gradients.clone()
    for i in range(n):
        for j in torch.randperm(n, generator=generator).tolist():
            if i != j and lengths[j] > 0:
                along = (projected[i] @ gradients[j]).clamp(max=0.0) / lengths[j]
                projected[i] -= along * gradients[j]
    return projected.mean(0)
