"""What the networks cost: connections and operations, counted for the masks that are there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from common.marl.mixers import VDN, QMix
from common.marl.recurrent import RecurrentAgents
from papers.mast.method import Topology, linear_flops
from papers.mast.networks import Values, n_parameters


@dataclass(frozen=True)
class Cost:
    """Of a host's networks.

    Attributes:
        act: operations of a joint decision (all agents, a step). [FLOP].
        train: operations of an update per step of an episode. [FLOP].
        size: connections and biases, of agents and mixer.
    """

    act: float
    train: float
    size: int


def layer_sizes(network: nn.Module) -> Iterable[tuple[nn.Parameter, int, int]]:
    """Weight, inputs and outputs of each linear layer of a network."""
    for name, weight in network.named_parameters():
        if name.endswith("weight"):
            # a stack holds [G, in, out], a single layer [out, in]
            last = weight.shape[-2:] if weight.dim() == 3 else weight.shape[::-1]
            yield weight, int(last[0]), int(last[1])


def forward_flops(network: nn.Module, topology: Topology | None) -> float:
    """Operations of one row through all linear layers (of one network of a stack; Eq. 8)."""
    return sum(
        linear_flops(n_in, n_out, topology.density_of(weight) if topology else 1.0)
        for weight, n_in, n_out in layer_sizes(network)
    )


def mixing_flops(mixer: nn.Module, n_agents: int) -> float:
    """Operations of mixing with the weights that the hypernetworks gave."""
    if isinstance(mixer, QMix):
        return mixer.embed * (2 * n_agents - 1) + 2 * mixer.embed - 1
    return n_agents - 1 if isinstance(mixer, VDN) else 0


def step_flops(values: Values, topology: Topology | None) -> tuple[float, float]:
    """Operations of all agents, and of the mixer, for one step of an episode."""
    agents: RecurrentAgents = values.agents
    decide = agents.n_agents * forward_flops(agents, topology)
    return decide, forward_flops(values.mixer, topology) + mixing_flops(
        values.mixer, agents.n_agents
    )


def cost_of(values: list[Values], topology: Topology, rewire_every: int) -> Cost:
    """Cost of the networks with the masks of ``topology``.

    An update takes one forward and one backward pass (twice a forward) of the online networks and
    one forward pass of the targets. Where connections grow by the gradient, one backward pass in
    ``rewire_every`` is dense.
    """
    act = step_flops(values[0], topology)[0]
    train = 0.0
    for v in values:
        sparse, dense = sum(step_flops(v, topology)), sum(step_flops(v, None))
        train += 4 * sparse
        if topology.growth == "gradient":
            train += 2 * (dense - sparse) / rewire_every
    networks = [network for v in values for network in v.networks]
    absent = sum(int((mask == 0).sum()) for mask in topology.masks)
    return Cost(act, train, sum(map(n_parameters, networks)) - absent)


__all__ = ["Cost", "cost_of", "forward_flops", "layer_sizes", "step_flops"]
