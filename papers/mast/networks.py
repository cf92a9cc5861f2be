"""Agents and mixers of a host algorithm, dense, small or sparse, and their copies."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.marl.episodes import Batch
from common.marl.mixers import VDN, CentralMixer, QMix
from common.marl.protocol import BatchEnv
from common.marl.recurrent import RecurrentAgents, agent_inputs, input_width
from papers.mast.config import Config, Host
from papers.mast.method import weights_of

CENTRAL = ("ow-qmix", "cw-qmix")  # hosts with a second, unrestricted value function
CENTRAL_WIDTH = 256


class Values(nn.Module):
    """Agents and a mixer: Q_tot of episodes.

    Args:
        env: for its sizes.
        host: which mixer.
        share: one network for all agents.
        hidden: width of the agents.
        embed: width of the mixing layer (or of the central mixer).
        hypernet: width of the mixer's hypernetworks.
        generator: of the initial weights.
        central: an unrestricted mixer.
    """

    def __init__(
        self,
        env: BatchEnv,
        host: Host,
        *,
        share: bool,
        hidden: int,
        embed: int,
        hypernet: int,
        generator: torch.Generator,
        central: bool = False,
    ) -> None:
        super().__init__()
        N, A = env.n_agents, env.n_actions
        self.n_actions = A
        n_in = input_width(env.obs_dim, A, N, last=True, ids=True)
        self.agents = RecurrentAgents(N, n_in, A, hidden, share=share, generator=generator)
        if central:
            self.mixer: nn.Module = CentralMixer(N, env.state_dim, embed, generator=generator)
        elif host == "vdn":
            self.mixer = VDN()
        else:
            self.mixer = QMix(N, env.state_dim, embed, hypernet, generator=generator)

    @property
    def networks(self) -> list[nn.Module]:
        """Each is made sparse by itself."""
        return [self.agents, self.mixer]

    def utilities(self, batch: Batch) -> Tensor:
        """q_i of every moment of episodes. [B, T + 1, N, A]."""
        out: Tensor = self.agents(agent_inputs(batch.obs, batch.actions, self.n_actions))
        return out


def make_values(cfg: Config, env: BatchEnv, size: str, generator: torch.Generator) -> list[Values]:
    """The host's value function, and for weighted QMIX the central one.

    ``size="tiny"`` gives dense networks with at most the parameters of the sparse ones.
    """
    made = []
    for central in (False, True)[: 1 + (cfg.host in CENTRAL)]:
        widths = {
            "hidden": cfg.hidden,
            "embed": CENTRAL_WIDTH if central else cfg.embed,
            "hypernet": cfg.hypernet,
        }
        if size == "tiny":
            widths = tiny_widths(cfg, env, widths, central=central)
        made.append(
            Values(env, cfg.host, share=cfg.share, generator=generator, central=central, **widths)
        )
    return made


def tiny_widths(
    cfg: Config, env: BatchEnv, widths: dict[str, int], *, central: bool
) -> dict[str, int]:
    """The largest widths, in the proportions of ``widths``, with at most the sparse sizes."""

    def built(scale: float) -> Values:
        smaller = {name: max(1, round(scale * width)) for name, width in widths.items()}
        unused = torch.Generator()
        return Values(env, cfg.host, share=cfg.share, generator=unused, central=central, **smaller)

    full = built(1.0)
    found = dict(widths)
    for k, names in enumerate((("hidden",), ("embed", "hypernet"))):
        limit = sparse_size(full.networks[k], cfg.sparsity)
        scale = 1.0
        while scale > 0.002 and n_parameters(built(scale).networks[k]) > limit:
            scale *= 0.98
        found |= {name: max(1, round(scale * widths[name])) for name in names}
    return found


def n_parameters(network: nn.Module) -> int:
    """Weights and biases."""
    return sum(p.numel() for p in network.parameters())


def sparse_size(network: nn.Module, sparsity: float) -> float:
    """Connections that stay, and all biases."""
    weights = sum(w.numel() for w in weights_of(network))
    return (1 - sparsity) * weights + n_parameters(network) - weights


def copies(values: Sequence[Values]) -> list[Values]:
    """Target networks: copies that no gradient reaches."""
    made = [copy.deepcopy(v) for v in values]
    for v in made:
        v.requires_grad_(False)
    return made


@torch.no_grad()
def copy_into(targets: Sequence[Values], values: Sequence[Values]) -> None:
    """Hard copy of the parameters."""
    for target, value in zip(targets, values, strict=True):
        for old, new in zip(target.parameters(), value.parameters(), strict=True):
            old.copy_(new)


def parameters_of(values: Sequence[Values]) -> list[Any]:
    """All parameters, those of agents first."""
    return [p for v in values for p in v.parameters()]
