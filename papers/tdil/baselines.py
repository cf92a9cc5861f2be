"""What TDIL is compared with: a GAIL-style reward in the same agent, and behaviour cloning.

Behaviour cloning is TDIL's own loss (`method.bc_loss`) without anything else. The GAIL-style
reward goes through the same loop with beta = 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.stacked import MLP


class ImitationDiscriminator(nn.Module):
    """D_g(s, a) in (0, 1): is this pair the expert's? Discrete actions come as one-hot rows."""

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256, 256),
    ) -> None:
        super().__init__()
        self.net = MLP(generators, (obs_dim + action_dim, *hidden, 1), F.relu)

    def logit(self, s: Tensor, a: Tensor) -> Tensor:
        """Log-odds. [S, B, d], [S, B, A] -> [S, B]."""
        return self.net(torch.cat((s, a), dim=-1)).squeeze(-1)

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        """R_IRL(s, a) = D_g(s, a) itself, no logarithm (authors' code). [S, B]."""
        return torch.sigmoid(self.logit(s, a))


def imitation_loss(
    net: ImitationDiscriminator, s: Tensor, a: Tensor, s_expert: Tensor, a_expert: Tensor
) -> Tensor:
    """Cross-entropy, expert 1 and agent 0: the sum of the two batch means. [S]."""
    expert = F.softplus(-net.logit(s_expert, a_expert)).mean(dim=1)
    agent = F.softplus(net.logit(s, a)).mean(dim=1)
    return expert + agent
