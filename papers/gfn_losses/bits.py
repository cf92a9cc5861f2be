"""Experiment B, bit sequences: objects, network, losses of the objectives, test-set correlation.

``train.train_bits`` is the loop.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from common.errors import UserError
from common.gfn import objectives as flows
from common.gfn.nets import StackedMLP, StackedTransformer
from common.gfn.sampling import Trajectories, masked_log_softmax, sample_backward
from common.gfn.strings import BIT_BLOCKS, Mode, StringEnv
from papers.gfn_losses.method import RegressionLoss, objective


class BitSequences:
    """n bits in L = n/k words of k bits; log R = -beta * min_m d_Hamming(x, m) (Family page, 3.2).

    Modes are concatenations of n/8 blocks drawn with replacement (a mode may occur twice).
    """

    def __init__(
        self,
        n_bits: int,
        word_bits: int,
        n_modes: int,
        *,
        beta: float = 2.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if n_bits % word_bits or n_bits % 8:
            raise ValueError("n_bits must be a multiple of 8 and of word_bits")
        self.n_bits, self.word_bits, self.beta = n_bits, word_bits, beta
        self.length = n_bits // word_bits
        self.n_words = 2**word_bits
        self.device = torch.device(device)
        generator = torch.Generator().manual_seed(seed)
        blocks = torch.tensor([[int(c) for c in block] for block in BIT_BLOCKS])
        drawn = torch.randint(len(BIT_BLOCKS), (n_modes, n_bits // 8), generator=generator)
        self.mode_bits = blocks[drawn].flatten(1).to(self.device)  # [M, n]
        flips = torch.rand(n_modes, n_bits, n_bits, generator=generator).argsort(-1).argsort(-1)
        flips = flips < torch.arange(n_bits).unsqueeze(-1)  # row c flips exactly c bits
        test = self.mode_bits.cpu().unsqueeze(1) ^ flips.long()
        self.test_bits = test.flatten(0, 1).to(self.device)  # [M * n, n]
        words = torch.arange(self.n_words)
        shifts = torch.arange(word_bits - 1, -1, -1)
        self._word_bits = (words.unsqueeze(-1) >> shifts & 1).to(self.device)  # [V, k]
        self.mode_words = self.to_words(self.mode_bits)
        # distance of letter v at place i to mode m; the empty letter costs nothing
        table = (self._word_bits[:, None, None] != self._bits_of(self.mode_words)).sum(-1)
        table = torch.cat([table, torch.zeros_like(table[:1])]).permute(2, 0, 1)  # [L, V+1, M]
        self._table = table.reshape(self.length * (self.n_words + 1), n_modes).float()
        self._offset = torch.arange(self.length, device=self.device) * (self.n_words + 1)

    def _bits_of(self, words: Tensor) -> Tensor:
        return self._word_bits[words]

    def to_words(self, bits: Tensor) -> Tensor:
        """[..., n] bits -> [..., L] words, first bit most significant."""
        grouped = bits.unflatten(-1, (self.length, self.word_bits))
        weights = 2 ** torch.arange(self.word_bits - 1, -1, -1, device=bits.device)
        return (grouped * weights).sum(-1)

    def to_bits(self, words: Tensor) -> Tensor:
        """[..., L] complete words -> [..., n] bits."""
        return self._bits_of(words).flatten(-2)

    def distances(self, words: Tensor) -> Tensor:
        """Hamming distance to every mode, counted on filled places only. [..., L] -> [..., M]."""
        flat = (words + self._offset).reshape(-1, self.length)
        found = torch.nn.functional.embedding_bag(flat, self._table, mode="sum")
        return found.reshape(*words.shape[:-1], -1)

    def log_reward(self, words: Tensor) -> Tensor:
        """log R = -beta min_m d, counted on the filled words. [..., L] -> [...]."""
        return -self.beta * self.distances(words).min(-1).values

    def env(self, mode: Mode = "slots") -> StringEnv:
        """The MDP over words."""
        return StringEnv(mode, self.length, self.n_words, self.log_reward, device=self.device)


class SlotPolicy(nn.Module):
    """Logit of (slot i, word w) = position logit i + word logit (i, w).

    One more output is log F.
    """

    def __init__(self, kind: str, generators: list[torch.Generator], env: StringEnv, hidden: int):
        super().__init__()
        self.env, self.kind = env, kind
        n_slots, n_words = env.length, env.n_letters
        if kind == "mlp":
            n_out = n_slots + n_slots * n_words + 1
            self.net: nn.Module = StackedMLP(generators, (env.input_dim, hidden, hidden, n_out))
        elif kind == "transformer":
            self.net = StackedTransformer(
                generators, n_words + 2, n_slots + 1, n_out=n_words + n_slots + 1
            )
        else:
            raise UserError(f"unknown --net {kind!r}; choose mlp or transformer")

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """States [S, ..., L] -> action logits [S, ..., L*V] and log F [S, ...]."""
        n_slots, n_words = self.env.length, self.env.n_letters
        if self.kind == "mlp":
            out = self.net(self.env.encode(states))
            position = out[..., :n_slots]
            words = out[..., n_slots:-1].unflatten(-1, (n_slots, n_words))
            log_flow = out[..., -1]
        else:
            lead = states.shape[1:-1]
            bos = torch.full_like(states[..., :1], n_words + 1)
            out = self.net(torch.cat([bos, states], -1).flatten(1, -2))
            out = out.unflatten(1, lead)  # [S, ..., L+1, V + 1 + L]
            position = out[..., 0, n_words + 1 :]
            words = out[..., 1:, :n_words]
            log_flow = out[..., 0, n_words]
        return (position.unsqueeze(-1) + words).flatten(-2), log_flow


def bits_loss(
    name: str,
    policy: SlotPolicy,
    env: StringEnv,
    traj: Trajectories,
    log_Z: Tensor,
    lam: float,
    loss: RegressionLoss,
    clip: float,
) -> tuple[Tensor, Tensor]:
    """Surrogate and logged loss per seed; DB and STB are forward-looking. [S], [S]."""
    before = traj.states[..., :-1, :]
    logits, log_flow = policy(before)
    log_pf = masked_log_softmax(logits, env.forward_mask(before))
    log_pf = log_pf.gather(-1, traj.actions.unsqueeze(-1)).squeeze(-1)  # [S, B, L]
    fills = torch.arange(1, env.length + 1, device=log_pf.device, dtype=log_pf.dtype)
    log_pb = (-fills.log()).expand_as(log_pf)  # uniform P_B: 1/t
    log_reward = env.log_reward(traj.states)  # [S, B, L+1], of the filled words
    if name == "tb":
        pair = flows.trajectory_balance(
            log_pf, log_pb, traj.mask, log_Z.unsqueeze(-1), log_reward[..., -1]
        )
        return objective(pair, flows.mean_weights(traj.mask[..., 0]), loss, clip)
    log_flow = flows.forward_looking(log_flow, log_reward[..., :-1])
    log_flow = torch.cat([log_flow, log_reward[..., -1:]], -1)  # F(s_n) = R
    if name == "db":
        pair = flows.detailed_balance(log_flow, log_pf, log_pb)
        return objective(pair, flows.mean_weights(traj.mask), loss, clip)
    pair = flows.subtrajectory_balance(log_flow, log_pf, log_pb, traj.mask)
    weights = flows.subtrajectory_weights(traj.length, env.length, lam) / traj.mask.shape[1]
    return objective(pair, weights, loss, clip)


def correlation_on_test_set(
    policy: SlotPolicy,
    env: StringEnv,
    modes: BitSequences,
    n_seeds: int,
    generator: torch.Generator,
    rounds: int = 10,
) -> list[float]:
    """Spearman of log R and log P_T^ on the test set, P_T^ from ``rounds`` backward samples."""
    objects = modes.to_words(modes.test_bits)
    log_p = []
    with torch.no_grad():
        for part in objects.split(100):
            repeated = part.expand(rounds, *part.shape)
            u = torch.rand((env.length, *repeated.shape[:-1]), generator=generator)
            traj = sample_backward(env, repeated, u.to(part.device))
            before = traj.states[..., :-1, :]  # [N, objects, L, L]
            logits, _ = policy(before.expand(n_seeds, *before.shape))
            log_pf = masked_log_softmax(logits, env.forward_mask(before))
            chosen = traj.actions.expand(n_seeds, *traj.actions.shape).unsqueeze(-1)
            log_pf = log_pf.gather(-1, chosen).squeeze(-1).sum(-1)  # [S, N, objects]
            log_pb = torch.full_like(log_pf, -math.lgamma(env.length + 1))
            log_p.append(backward_log_probability(log_pf.transpose(0, 1), log_pb.transpose(0, 1)))
    estimate = torch.cat(log_p, -1).cpu()
    log_reward = modes.log_reward(objects).cpu()
    return [spearman(row, log_reward) for row in estimate]


def mark_modes(found: Tensor, distances: Tensor, delta: float) -> Tensor:
    """Marks the modes within ``delta`` of a sample. found [..., M], distances [..., K, M]."""
    return found | (distances <= delta).any(-2)


def backward_log_probability(log_pf: Tensor, log_pb: Tensor) -> Tensor:
    """log (1/N) sum_i P_F(tau_i)/P_B(tau_i|x), tau_i ~ P_B(.|x).

    Both arguments are sums over the actions of tau. [N, ...] -> [...].
    """
    return torch.logsumexp(log_pf - log_pb, 0) - math.log(log_pf.shape[0])


def distinct_fraction(objects: Tensor) -> float:
    """Share of distinct rows among the samples [K, L]."""
    return torch.unique(objects, dim=0).shape[0] / objects.shape[0]


def spearman(a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> float:
    """Spearman's rank correlation (nan when one side is constant)."""
    return float(spearmanr(np.asarray(a), np.asarray(b)).statistic)
