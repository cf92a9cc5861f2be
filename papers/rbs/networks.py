"""The goal-conditioned network: one trunk, a head for P_F and log F, a head for P_B, per seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from common.gfn.nets import StackedMLP
from common.gfn.sampling import Trajectories
from papers.rbs.method import Outputs
from papers.rbs.methods import Backward


class GoalNetwork(nn.Module):
    """MLP on the one-hot places of a state and its goal.

    Args:
        trunk: widths of the shared layers.
        head: widths of each head's own hidden layers (none: the heads are linear).
    """

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        *,
        n_places: int,
        n_values: int,
        n_actions: int,
        n_backward: int,
        trunk: Sequence[int] = (256, 256),
        head: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.n_actions = n_actions
        self.trunk = StackedMLP(generators, (2 * n_places * n_values, *trunk))
        self.forward_head = StackedMLP(generators, (trunk[-1], *head, n_actions + 1))
        self.backward_head = StackedMLP(generators, (trunk[-1], *head, n_backward))
        self.offsets: Tensor
        self.register_buffer("offsets", torch.arange(2 * n_places) * n_values)

    def features(self, states: Tensor) -> Tensor:
        """[S, ..., 2K] -> [S, ..., width]."""
        return nn.functional.leaky_relu(self.trunk.from_active_inputs(states + self.offsets))

    def forward_logits(self, states: Tensor) -> Tensor:
        """Logits of P_F(.|s, y) (for DQN: Q). [S, ..., 2K] -> [S, ..., A]."""
        return self.forward_head(self.features(states))[..., : self.n_actions]

    def backward_logits(self, states: Tensor) -> Tensor:
        """Logits of P_B(.|s, y). [S, ..., 2K] -> [S, ..., A_b]."""
        return self.backward_head(self.features(states))

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Forward logits, backward logits and log F(s|y)."""
        features = self.features(states)
        out = self.forward_head(features)
        return out[..., : self.n_actions], self.backward_head(features), out[..., -1]


def distinct(states: Tensor, n_values: int) -> tuple[Tensor, Tensor]:
    """The distinct states of every seed, so that the network runs once on each.

    Args:
        states: [S, ..., K] with entries in [0, n_values).
    Returns:
        [S, U, K] (a seed with fewer than U is padded with zeros) and the places [S, ...] of the
        states among them.
    """
    n_seeds, n_places = states.shape[0], states.shape[-1]
    flat = states.flatten(1, -2)  # [S, M, K]
    seed = torch.arange(n_seeds, device=states.device).view(-1, 1).expand(flat.shape[:2])
    if n_seeds * n_values**n_places < 2**63:
        radix = n_values ** torch.arange(n_places, device=states.device)
        code = (flat * radix).sum(-1) + seed * n_values**n_places
        keys, inverse = torch.unique(code.flatten(), return_inverse=True)
        seed_of = keys // n_values**n_places
    else:
        rows = torch.cat([seed.unsqueeze(-1), flat], -1).flatten(0, 1)
        keys, inverse = torch.unique(rows, dim=0, return_inverse=True)
        seed_of = keys[:, 0].contiguous()
    first = torch.searchsorted(seed_of, torch.arange(n_seeds + 1, device=states.device))
    place = inverse.view(n_seeds, -1) - first[:-1].unsqueeze(-1)
    packed = flat.new_zeros(n_seeds, int(first.diff().max()), n_places)
    packed[seed, place] = flat  # the same state more than once: the same values
    return packed, place.view(states.shape[:-1])


FIRST = 6.0  # log odds of the fixed P_B for its first possible action


def backward_logits_of(kind: Backward, learned: Tensor) -> Tensor:
    """Logits of P_B: the network's, or constants of the same shape. [..., A_b].

    "fixed" undoes the first action that it may (on strings: removes the last letter) nearly
    always: one order for all goals, with nothing to learn.
    """
    if kind == "learned":
        return learned
    constant = torch.zeros_like(learned)
    if kind == "fixed":
        order = torch.arange(constant.shape[-1], device=constant.device)
        constant = constant - FIRST * order
    return constant


def backward_policy(net: GoalNetwork, kind: Backward) -> Callable[[Tensor], Tensor] | None:
    """Goal-conditioned states -> logits of P_B; None: uniform."""
    if kind == "uniform":
        return None
    return lambda states: backward_logits_of(kind, net.backward_logits(states))


def outputs(
    net: GoalNetwork, traj: Trajectories, n_values: int, *, backward: Backward = "learned"
) -> Outputs:
    """The network at the distinct states of a batch of trajectories."""
    states, at = distinct(traj.states, n_values)
    logits_f, logits_b, log_flow = net(states)
    if backward == "uniform":
        return Outputs(states, at, logits_f, None, log_flow)
    return Outputs(states, at, logits_f, backward_logits_of(backward, logits_b), log_flow)
