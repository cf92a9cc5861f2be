"""String tasks: bit sequences, RNA binding, QED strings, and QM9 strings with a user's table.

All are prepend/append strings of fixed length (``common.gfn.strings``): 2V actions, every state but
the empty one has two in-edges, so uniform P_B is 1/2 per step.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.gfn.strings import BIT_BLOCKS, StringEnv

TASKS = ("bits", "rna", "qed", "qm9str", "seh")
INVALID_LOG_REWARD = -75.0  # log R^beta of an invalid object [code]
INVALID_REWARD = -10.0  # R of an invalid object, as Q sees it [code]
TOP_SHARE = 0.005  # modes of an enumerated task: the best 0.5 % of its objects


@dataclass
class StringTask:
    """An environment, its raw reward, and what counts as a mode."""

    env: StringEnv
    beta: float  # reward exponent of the GFlowNet
    score: Callable[[Tensor], tuple[Tensor, Tensor]]  # objects [..., L] -> R [...], hits [..., M]
    n_hits: int  # M
    distance: Callable[[Tensor], float]  # objects [K, L] -> mean pairwise distance in [0, 1]
    enumerable: bool  # whether all states fit into tables
    n_modes: int  # modes (the first hits; bits: further hits at a second radius)

    def count(self, found: Tensor) -> Tensor:
        """Modes found, once per radius. [S, M] -> [S] or [S, 2]."""
        per_radius = found.unflatten(-1, (-1, self.n_modes)).sum(-1)
        return per_radius.squeeze(-1)

    def log_reward(self, reward: Tensor, beta: float) -> Tensor:
        """log R^beta of raw rewards; -75 for invalid objects."""
        valid = reward > 0
        log_reward = beta * torch.where(valid, reward, 1.0).log()
        return torch.where(valid, log_reward, INVALID_LOG_REWARD)


def string_env(length: int, n_letters: int, task: Callable[[], StringTask]) -> StringEnv:
    """The MDP; its log-reward is the task's at the task's beta."""

    def log_reward(objects: Tensor) -> Tensor:
        made = task()
        return made.log_reward(made.score(objects)[0], made.beta)

    return StringEnv("prepend_append", length, n_letters, log_reward)


class BitModes:
    """R = exp(1 - min_m d_Levenshtein(x, m)/n) over n-bit strings and |M| distinct modes."""

    def __init__(
        self, n_bits: int, word_bits: int, n_modes: int, radii: tuple[int, ...], seed: int = 0
    ) -> None:
        if n_bits % 8 or n_bits % word_bits:
            raise UserError("--n-bits must be a multiple of 8 and of --word-bits")
        rng = np.random.default_rng(seed)
        self.n_bits, self.word_bits, self.radii = n_bits, word_bits, radii
        modes: dict[str, None] = {}
        if n_modes > len(BIT_BLOCKS) ** (n_bits // 8):
            raise UserError(f"there are fewer than {n_modes} modes of {n_bits} bits")
        while len(modes) < n_modes:
            drawn = rng.integers(len(BIT_BLOCKS), size=n_bits // 8)
            modes["".join(BIT_BLOCKS[i] for i in drawn)] = None
        self.modes = list(modes)
        shifts = np.arange(word_bits - 1, -1, -1)
        words = np.arange(2**word_bits)[:, None] >> shifts & 1
        self._words = (words + ord("0")).astype(np.uint8)  # [V, k] characters

    def bits(self, objects: Tensor) -> np.ndarray:
        """[..., L] words -> [..., n] characters '0' and '1' as bytes."""
        chars = self._words[objects.cpu().numpy()]
        return chars.reshape(*chars.shape[:-2], self.n_bits)

    def distances(self, objects: Tensor) -> np.ndarray:
        """Levenshtein distance on bits to every mode. [..., L] -> [..., M]."""
        from rapidfuzz.distance import Levenshtein
        from rapidfuzz.process import cdist

        flat = self.bits(objects).reshape(-1, self.n_bits)
        strings = [row.tobytes().decode() for row in flat]
        found = cdist(strings, self.modes, scorer=Levenshtein.distance, dtype=np.int32)
        return found.reshape(*objects.shape[:-1], len(self.modes))

    def score(self, objects: Tensor) -> tuple[Tensor, Tensor]:
        """Raw reward [...], and the modes within each radius [..., radii * M]."""
        d = self.distances(objects)
        reward = torch.from_numpy(np.exp(1 - d.min(-1) / self.n_bits)).float()
        hits = torch.from_numpy(np.concatenate([d <= r for r in self.radii], -1))
        return reward.to(objects.device), hits.to(objects.device)

    def distance(self, objects: Tensor) -> float:
        """Mean pairwise Hamming distance over n. [K, L]."""
        return hamming(torch.from_numpy(self.bits(objects) - ord("0")), 2)


def hamming(strings: Tensor, n_letters: int) -> float:
    """Mean over pairs of the normalised Hamming distance, from the letters' frequencies. [K, n]."""
    k = strings.shape[0]
    same = torch.nn.functional.one_hot(strings.long(), n_letters).double().mean(0).square().sum(-1)
    return float((1 - same.mean()) * k / (k - 1))


class TableReward:
    """A reward table over all strings; modes are the objects of the best 0.5 % (ties included)."""

    def __init__(self, table: np.ndarray, n_letters: int, length: int) -> None:
        self.table = torch.from_numpy(table).float()
        self.radix = n_letters ** torch.arange(length - 1, -1, -1)
        k = max(1, int(TOP_SHARE * len(table)))
        self.threshold = float(self.table.sort(descending=True).values[k - 1])
        best = (self.table >= self.threshold).nonzero().squeeze(-1)
        self.number = torch.full((len(table),), -1)
        self.number[best] = torch.arange(len(best))
        self.n_modes = len(best)

    def score(self, objects: Tensor) -> tuple[Tensor, Tensor]:
        """Raw reward [...] and which mode it is [..., M]."""
        row = (objects.cpu() * self.radix).sum(-1)
        hits = self.number[row].unsqueeze(-1) == torch.arange(self.n_modes)
        return self.table[row].to(objects.device), hits.to(objects.device)


def bits_task(
    n_bits: int = 32, word_bits: int = 4, n_modes: int = 16, delta: int = 3, beta: float = 12.0
) -> StringTask:
    """Bit sequences [paper: n=120, |M|=60, beta=3, delta=30]; hits within delta, then within 2."""
    modes = BitModes(n_bits, word_bits, n_modes, (delta, 2))
    env = string_env(n_bits // word_bits, 2**word_bits, lambda: task)
    task = StringTask(env, beta, modes.score, 2 * n_modes, modes.distance, False, n_modes)
    return task


def table_task(
    table: np.ndarray,
    n_letters: int,
    length: int,
    beta: float,
    distance: Callable[[Tensor], float],
) -> StringTask:
    """A task whose rewards are known for all strings."""
    reward = TableReward(table, n_letters, length)
    env = string_env(length, n_letters, lambda: task)
    task = StringTask(env, beta, reward.score, reward.n_modes, distance, True, reward.n_modes)
    return task


def rna_task(length: int = 8, beta: float = 8.0) -> StringTask:
    """Binding to RNA1, R = max(f, 1e-3)."""
    from common.gfn.rna import fitness_table

    table = np.maximum(fitness_table("RNA1", length), 1e-3)
    return table_task(table, 4, length, beta, lambda x: hamming(x, 4))


def qed_task(length: int = 4, beta: float = 16.0) -> StringTask:
    """QED strings: R = QED * clip((10 - SA)/9, 0, 1)."""
    from common.gfn import molecule_strings as strings

    table = np.maximum(strings.score_table(length), 1e-3)
    return table_task(table, len(strings.BLOCKS), length, beta, molecular_distance)


def molecular_distance(objects: Tensor) -> float:
    """Mean pairwise 1 - Tanimoto similarity of string molecules. [K, L]."""
    from common.gfn.molecule_strings import mean_pairwise_distance

    return mean_pairwise_distance(objects.tolist())


def qm9_task(length: int = 5, beta: float = 32.0) -> StringTask:
    """String molecules with the user's table of HOMO-LUMO gaps, $PAPERS_DATA/qm9str/gap.npy.

    One float per string in base 11, first block most significant; NaN: invalid molecule. R is the
    gap over the table's 95th percentile.
    """
    from common.gfn import molecule_strings as strings

    n = len(strings.BLOCKS) ** length
    root = os.environ.get("PAPERS_DATA")
    path = Path(root or ".") / "qm9str" / "gap.npy"
    if not root or not path.is_file():
        raise UserError(
            f"the QM9 task needs $PAPERS_DATA/qm9str/gap.npy: the HOMO-LUMO gap of each of the "
            f"{n} block strings of length {length} (papers/qgfn/NOTES.md says in which order)"
        )
    try:
        gap = np.load(path, allow_pickle=False).astype(np.float64)
    except ValueError as error:
        raise UserError(f"{path} is no plain NumPy array of numbers") from error
    if gap.shape != (n,) or not np.isfinite(gap).any():
        raise UserError(f"{path} has shape {gap.shape}; {n} gaps are expected")
    reward = np.maximum(gap / np.nanpercentile(gap, 95), 1e-3)
    reward[~np.isfinite(gap)] = INVALID_REWARD
    return table_task(reward, len(strings.BLOCKS), length, beta, molecular_distance)
