"""P_F and Q of strings as one stack of separate networks: one batched matmul serves both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.gfn.nets import StackedMLP, StackedTransformer
from common.gfn.strings import StringEnv
from common.stacked import seed_generators

POLICY, VALUE = 0, 2  # streams of the seeds' generators (1: sampling)


class Networks(nn.Module):
    """The learning networks of all seeds: first the P_F of every seed, then the Q of every seed.

    Args:
        kind: "mlp" (2 x ``hidden`` on the one-hot string) or "transformer" (3 x 64, 8 heads).
        flow: one more output, log F (SubTB).
    """

    def __init__(
        self,
        kind: str,
        seeds: Sequence[int],
        env: StringEnv,
        *,
        learns_pf: bool,
        learns_q: bool,
        hidden: int = 256,
        flow: bool = False,
    ) -> None:
        super().__init__()
        self.env, self.kind, self.n_seeds = env, kind, len(seeds)
        self.learns_pf, self.learns_q = learns_pf, learns_q
        generators = [
            *(seed_generators(seeds, POLICY) if learns_pf else []),
            *(seed_generators(seeds, VALUE) if learns_q else []),
        ]
        n_out = env.n_actions + flow
        if kind == "mlp":
            self.net: nn.Module = StackedMLP(generators, (env.input_dim, hidden, hidden, n_out))
        elif kind == "transformer":
            self.net = StackedTransformer(
                generators, env.n_letters + 2, env.length + 1, n_out, dropout=0.0
            )
        else:
            raise UserError(f"unknown --net {kind!r}; choose mlp or transformer")

    def forward(self, states: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """States [S, ..., L] -> logits of P_F [S, ..., A], Q [S, ..., A], log F [S, ...]."""
        both = torch.cat([states, states]) if self.learns_pf and self.learns_q else states
        if isinstance(self.net, StackedMLP):
            out = self.net.from_active_inputs(self.env.active_inputs(both))
        else:
            begin = torch.full_like(both[..., :1], self.env.n_letters + 1)
            tokens = torch.cat([begin, both], -1)
            out = self.net(tokens.flatten(1, -2))[:, :, 0].unflatten(1, states.shape[1:-1])
        heads = out[..., : self.env.n_actions]
        logits = heads[: self.n_seeds] if self.learns_pf else None
        q = heads[-self.n_seeds :] if self.learns_q else None
        has_flow = self.learns_pf and out.shape[-1] > self.env.n_actions
        return logits, q, out[: self.n_seeds, ..., -1] if has_flow else None

    def values(self) -> list[Tensor]:
        """The parameters of Q (views on the stack)."""
        return [p[-self.n_seeds :] for p in self.parameters()]
