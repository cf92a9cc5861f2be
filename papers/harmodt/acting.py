"""A trained network with its masks as policies: of its tasks, of unseen ones, told nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from common.control.decision_rollout import acting
from common.control.decision_transformer import DecisionTransformer
from common.control.sequences import Windows
from common.torch_utils import cumulative_sum
from papers.harmodt.config import Config
from papers.harmodt.learning import Task, World, make_net, masked_copy
from papers.harmodt.method import Belief, Gate, vote
from papers.harmodt.methods import METHODS
from papers.harmodt.train import make_gate

Act = Callable[[Windows], Tensor]  # windows of B episodes -> actions [B, a]


@dataclass(frozen=True)
class Actor:
    """What a run has learned.

    Attributes:
        nets: the network under each mask.
        unseen: the network under the vote of the masks.
        masks: [M, D].
        groups: the mask of each task [N], on the CPU.
        gate: tells the mask where no task is told; else None.
    """

    nets: list[DecisionTransformer]
    unseen: DecisionTransformer
    masks: Tensor
    groups: Tensor
    gate: Gate | None


def load_actor(cfg: Config, final: dict[str, Any], device: torch.device) -> Actor:
    """The actor of a finished run's last checkpoint."""
    net = make_net(cfg)
    net.load_state_dict(final["net"])
    net = net.to(device)
    masks, gate = final["masks"].to(device), None
    if METHODS[cfg.method].groups:
        gate = make_gate(cfg).eval().requires_grad_(False)
        gate.load_state_dict(final["gate"])
        gate = gate.to(device)
    voted = vote(masks, -(-len(masks) // 2))
    nets = [masked_copy(net, mask) for mask in masks]
    return Actor(nets, masked_copy(net, voted), masks, final["groups"].cpu(), gate)


def policy_of(actor: Actor, world: World, task: int, n: int) -> Act:
    """The policy in n episodes of a task that was trained on."""
    if actor.gate is not None:
        return gated(actor.nets, actor.gate)
    act = prompted(actor.nets[int(actor.groups[task])], world.prompt(world.tasks[task], n))
    return lambda windows: act(world.told(windows, task))


def unseen_policy(actor: Actor, world: World, task: Task, n: int) -> Act:
    """The policy in n episodes of a task that only a prompt tells of, or nothing."""
    if actor.gate is not None:
        return gated(actor.nets, actor.gate)
    return prompted(actor.unseen, world.prompt(task, n))


@torch.no_grad()
def prompted(net: DecisionTransformer, prompt: Windows | None) -> Act:
    """Acts after a prompt, which is embedded once."""
    return acting(net, None if prompt is None else net.embed_prompt(prompt))


def gated(nets: list[DecisionTransformer], gate: Gate) -> Act:
    """Acts with the mask of the group that is believed in after each step."""
    belief = Belief(gate)

    @torch.no_grad()
    def policy(windows: Windows) -> Tensor:
        return by_group(nets, windows, belief(windows.states, windows.real))[:, -1]

    return policy


def by_group(nets: list[DecisionTransformer], windows: Windows, groups: Tensor) -> Tensor:
    """Actions [B, K, a], each window's by the network of its group [B]."""
    actions = torch.zeros_like(windows.actions)
    for group in groups.unique().tolist():
        rows = (groups == group).nonzero().squeeze(1)
        part = Windows(**{f.name: getattr(windows, f.name)[rows] for f in fields(Windows)})
        actions[rows] = nets[group](part)
    return actions


@torch.no_grad()
def beliefs(gate: Gate, states: Tensor, window: int) -> Tensor:
    """The group that is believed in after each step of E episodes. [E, T]

    Args:
        states: globally standardised [E, T, s].
        window: K, the steps that a policy sees.
    """
    E, T, s = states.shape
    padded = torch.cat((states.new_zeros(E, window - 1, s), states), 1)
    seen = padded.unfold(1, window, 1).transpose(2, 3).flatten(0, 1)  # [E T, K, s]
    real = torch.arange(T).unsqueeze(1) + torch.arange(window) >= window - 1  # [T, K]
    found = gate(seen, real.repeat(E, 1).to(states.device)).view(E, T, -1)
    return cumulative_sum(found.transpose(1, 2)).argmax(1)
