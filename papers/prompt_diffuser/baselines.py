"""What Prompt Diffuser is compared with: other things to tune beside, or in, a frozen policy.

Full fine-tuning is the policy's own training at a few episodes, so it needs nothing here.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from common.control.decision_transformer import DecisionTransformer, PromptTokens
from common.control.sequences import Windows
from papers.prompt_diffuser.method import NoisePredictor, PromptShape


class SoftPrompt(nn.Module):
    """Token embeddings as parameters (Lester et al. 2021), from those of a real prompt.

    Args:
        policy: that embeds it.
        prompt: one prompt [1, K*].
    """

    def __init__(self, policy: DecisionTransformer, prompt: Windows) -> None:
        super().__init__()
        with torch.no_grad():
            tokens = policy.embed_prompt(prompt)
        self.embeddings = nn.Parameter(tokens.embeddings.clone())  # [1, 3 K*, width]

    def forward(self, batch: int) -> PromptTokens:
        """The same tokens for all of a batch."""
        real = self.embeddings.new_ones(batch, self.embeddings.shape[1], dtype=torch.bool)
        return PromptTokens(self.embeddings.expand(batch, -1, -1), real)


class DataPrompt(nn.Module):
    """The numbers of a prompt as parameters: (return-to-go, state, action) of each step.

    What Prompt-Tuning DT moves, too (Hu et al. 2023); by gradients it is the control for what the
    diffusion adds to the guidance.

    Args:
        prompt: one prompt [1, K*], where it begins.
    """

    timesteps: Tensor

    def __init__(self, prompt: Windows) -> None:
        super().__init__()
        numbers = torch.cat((prompt.returns.unsqueeze(-1), prompt.states, prompt.actions), -1)
        self.numbers = nn.Parameter(numbers.clone())  # [1, K*, 1 + d_s + d_a]
        self.state_dim = prompt.states.shape[-1]
        self.register_buffer("timesteps", prompt.timesteps.clone())

    def forward(self, batch: int, offsets: Tensor | None = None) -> Windows:
        """The same prompt for all of a batch; actions are clamped to the box.

        Args:
            batch: B.
            offsets: added to the numbers [B, K*, 1 + d_s + d_a].
        """
        numbers = self.numbers.expand(batch, -1, -1)
        numbers = numbers if offsets is None else numbers + offsets
        sizes = (1, self.state_dim, numbers.shape[-1] - 1 - self.state_dim)
        returns, states, actions = numbers.split(sizes, -1)
        timesteps = self.timesteps.expand(batch, -1)
        real = torch.ones_like(timesteps, dtype=torch.bool)
        return Windows(returns.squeeze(-1), states, actions.clamp(-1.0, 1.0), timesteps, real)


def rank_direction(perturbations: Tensor, losses: Tensor) -> Tensor:
    """Where better perturbations lie: the mean of (better - worse) over all pairs. [...]

    The estimate that Prompt-Tuning DT descends along: it takes the order of the losses, not their
    sizes. The mean over pairs is sum_j (m + 1 - 2 rank_j) perturbation_j / (m (m - 1) / 2), the
    best having rank 1.

    Args:
        perturbations: [m, ...].
        losses: [m].
    """
    m = len(losses)
    rank = losses.argsort(stable=True).argsort(stable=True)  # 0 is the best
    weight = (m - 1 - 2 * rank).to(perturbations.dtype) / (m * (m - 1) / 2)
    return torch.tensordot(weight, perturbations, 1)


class Adapted(nn.Module):
    """A block of the transformer and a bottleneck after it: h + W_up relu(W_down h).

    Houlsby et al. 2019; W_up and its bias are zero at first, so that nothing changes.

    Args:
        block: of GPT-2.
        width: d; the bottleneck has d / 4.
    """

    def __init__(self, block: nn.Module, width: int) -> None:
        super().__init__()
        self.block = block
        self.down = nn.Linear(width, max(1, width // 4))
        self.up = nn.Linear(max(1, width // 4), width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[B, T, d], other arguments as GPT-2's block takes them."""
        found: Tensor = self.block(hidden, *args, **kwargs)
        return found + self.up(torch.relu(self.down(found)))


def with_adapters(policy: DecisionTransformer, seed: int) -> DecisionTransformer:
    """A copy of a frozen policy with free adapters after each block; drawn on the CPU."""
    adapted = copy.deepcopy(policy).requires_grad_(False)
    device = next(policy.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        blocks = [Adapted(block, policy.config.width) for block in adapted.blocks.h]
    adapted.blocks.h = nn.ModuleList(blocks).to(device)
    return adapted


def regressed(net: NoisePredictor, shape: PromptShape, y: Tensor) -> Tensor:
    """The regression control: x of y alone, by the same network without noise. [B, D]

    Args:
        net: as many parameters as eps_theta's.
        shape: of the prompts.
        y: conditions [B, 2 K*].
    """
    return net(y.new_zeros(len(y), shape.dim), y, 0)


def regression_loss(net: NoisePredictor, shape: PromptShape, x0: Tensor, y: Tensor) -> Tensor:
    """In the place of L_DM: |x0 - f(y)|^2 / D."""
    return (x0 - regressed(net, shape, y)).square().mean()
