"""Tasks: environments with goals, at the three scales, and where their goals come from."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from common.errors import UserError, choose
from common.gfn.hypergrid import HyperGrid
from common.gfn.sampling import ReversibleEnv
from papers.rbs.environments import MergedStrings, Peptides, SetEnv
from papers.rbs.method import GoalConditioned

N_EVAL_GOALS = 512  # where not all goals can be evaluated
N_ALL_GOALS = 1024  # up to this many, all are


@dataclass(frozen=True)
class Spec:
    """A task's environment and the training settings that go with it (Section 3 of the notes)."""

    kind: str  # grid, bits, sets, tfbind8, amp
    size: tuple[int, ...]  # grid: D, H; bits: n, k; strings: L, V; sets: n_items, size
    log_C: float = 0.0  # intensified reward: log C [code: 1 on grids, 1e7/1e25/1e40 on bits]
    lr: float = 1e-3  # Adam [code: 1e-3 grids, 5e-4 bits; ours is tuned for short runs]
    grad_clip: float = math.inf  # gradient norm per seed [code: none on grids, 10 on bits]
    epsilon: float = 0.0  # share of random actions in forward rollouts [code: 0.01 on grids]
    trunk: tuple[int, ...] = (256, 256)  # shared layers
    head: tuple[int, ...] = ()  # hidden layers of each head
    held_out: float = 0.0  # share of the goals that are never trained on


def grid(height: int, **changes: Any) -> Spec:
    """Two-dimensional grid, right, up, stop."""
    return Spec("grid", (2, height), **{"lr": 8e-3, "epsilon": 0.01, **changes})


def strings(kind: str, size: tuple[int, int], C: float, **changes: Any) -> Spec:
    """Strings or sets; ``C`` = log10 of the reward's constant."""
    log_C = C * math.log(10.0)
    return Spec(kind, size, **{"log_C": log_C, "lr": 4e-3, "grad_clip": 10.0, **changes})


CODE = {"trunk": (256, 256), "head": (256,), "lr": 1e-3}  # the authors' networks on grids [code]
WIDE = {"trunk": (2048, 2048), "head": (2048,) * 3, "lr": 5e-4}  # and on strings [code]

SPECS = {
    "g6": grid(6),
    "g16": grid(16),
    "g32": grid(32),
    "g16-unseen": grid(16, held_out=0.2),
    "b12": strings("bits", (12, 2), 3),
    "b20": strings("bits", (20, 2), 3),
    # the paper's sizes
    "g32-paper": grid(32, **CODE),
    "g64-paper": grid(64, **CODE),
    "g128-paper": grid(128, **CODE),
    "b40-paper": strings("bits", (40, 2), 7, **WIDE),
    "b60-paper": strings("bits", (60, 3), 25, **WIDE),
    "b100-paper": strings("bits", (100, 5), 40, **WIDE),
    "tfbind8-paper": strings("tfbind8", (8, 4), 7, **WIDE),
    "amp-paper": strings("amp", (50, 20), 25, **WIDE),
    "sets-paper": strings("sets", (30, 20), 7, **WIDE),
}

ALPHABETS = {"tfbind8": "ACGT", "amp": "ACDEFGHIKLMNPQRSTVWY"}


def data_file(kind: str) -> Path:
    """The user-supplied list of sequences of a task.

    Raises:
        UserError: says what to obtain and where to put it.
    """
    what = {
        "tfbind8": "the 8-letter DNA sequences of TFBind8 (SIX6, Design-Bench)",
        "amp": f"antimicrobial peptides of up to 50 letters {ALPHABETS['amp']} (DBAASP)",
    }[kind]
    root = os.environ.get("PAPERS_DATA")
    path = Path(root or "$PAPERS_DATA") / "rbs" / f"{kind}.csv"
    if not root or not path.is_file():
        raise UserError(f"{path} is missing: put {what} there, one per row, column 'sequence'")
    return path


def read_sequences(path: Path, alphabet: str, length: int, fixed: bool) -> Tensor:
    """Distinct sequences of a CSV file with a column 'sequence'. [n, length], padded by V.

    Raises:
        UserError: if the file has another format or a sequence is not of the task.
    """
    with path.open(newline="") as handle:
        table = csv.DictReader(handle)
        if "sequence" not in (table.fieldnames or ()):
            raise UserError(f"{path}: a column 'sequence' is expected")
        words = sorted({row["sequence"].strip() for row in table})
    goals = torch.full((len(words), length), len(alphabet))
    for i, word in enumerate(words):
        good = (len(word) == length) if fixed else (0 < len(word) <= length)
        if not good or not set(word) <= set(alphabet):
            raise UserError(f"{path}: {word!r} is no sequence of {length} letters {alphabet}")
        goals[i, : len(word)] = torch.tensor([alphabet.index(c) for c in word])
    if not len(words):
        raise UserError(f"{path} holds no sequence")
    return goals


class Task:
    """An environment and its goals, for a stack of seeds."""

    def __init__(
        self,
        name: str,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        *,
        log_C: float | None = None,
    ) -> None:
        choose("task", name, tuple(SPECS))
        spec = SPECS[name]
        self.spec = spec = spec if log_C is None else replace(spec, log_C=log_C)
        self.device = torch.device(device)
        self.n_seeds = len(seeds)
        self.listed: Tensor | None = None  # [n, K] the goals, where they are a list
        a, b = spec.size
        if spec.kind == "grid":
            grid_env = HyperGrid(a, b, device=device)
            self.n_places, self.n_values = a, b
            self.listed = grid_env.all_states()
            env: object = grid_env
        elif spec.kind == "sets":
            env = SetEnv(a, b, device)
            self.n_places, self.n_values = a, 2
        else:
            length, n_letters = (a // b, 2**b) if spec.kind == "bits" else (a, b)
            env = (Peptides if spec.kind == "amp" else MergedStrings)(length, n_letters, device)
            self.n_places, self.n_values = length, n_letters + 1
            if spec.kind in ALPHABETS:
                goals = read_sequences(
                    data_file(spec.kind), ALPHABETS[spec.kind], length, spec.kind == "tfbind8"
                )
                self.listed = goals.to(device)
        self.env = cast(ReversibleEnv, env)
        self.held_out: Tensor | None = None  # [S, n] bool
        self.train_goals: Tensor | None = None  # [S, m, K]
        if self.listed is not None:
            n = len(self.listed)
            kept = n - round(spec.held_out * n)
            splits = [torch.Generator().manual_seed(7_000_003 + s) for s in seeds]
            order = torch.stack([torch.randperm(n, generator=g) for g in splits]).to(device)
            self.train_goals = self.listed[order[:, :kept].sort(-1).values]
            if spec.held_out:
                self.held_out = torch.ones(len(seeds), n, dtype=torch.bool, device=device)
                self.held_out.scatter_(1, order[:, :kept], False)
        self.eval_goals = self._eval_goals()

    def uniform_goals(self, generator: torch.Generator, n: int) -> Tensor:
        """Uniform objects, where goals are not a list. [n, K]."""
        drawn = torch.rand((n, self.n_places), generator=generator, device=generator.device)
        if self.spec.kind == "sets":
            chosen = drawn.argsort(-1)[:, : self.spec.size[1]]
            return torch.zeros_like(drawn, dtype=torch.long).scatter_(-1, chosen, 1)
        return (drawn * (self.n_values - 1)).long()

    def draw(self, generators: Sequence[torch.Generator], batch: int) -> Tensor:
        """Training goals, uniform over the objects (or the list). [S, B, K]."""
        if self.train_goals is None:
            return torch.stack([self.uniform_goals(g, batch) for g in generators])
        u = torch.stack([torch.rand(batch, generator=g, device=g.device) for g in generators])
        index = (u * self.train_goals.shape[1]).long()
        return self.train_goals.gather(1, index.unsqueeze(-1).expand(-1, -1, self.n_places))

    def _eval_goals(self) -> Tensor:
        """The goals of every evaluation: all, or the same 512 for every method and seed. [G, K]."""
        rng = torch.Generator().manual_seed(0)
        if self.listed is None:
            return self.uniform_goals(rng, N_EVAL_GOALS).to(self.device)
        n = len(self.listed)
        if n <= N_ALL_GOALS:
            return self.listed
        return self.listed[torch.randperm(n, generator=rng)[:N_EVAL_GOALS].to(self.device)]

    def conditioned(self, goals: Tensor) -> GoalConditioned:
        """The environment for trajectories to the given goals [..., K]."""
        return GoalConditioned(self.env, goals, self.spec.log_C)

    def may_relabel(self, reached: Tensor) -> Tensor | None:
        """Which objects [S, B, K] may become goals: held-out ones never do. [S, B] or None."""
        if self.held_out is None:
            return None
        assert isinstance(self.env, HyperGrid)
        return ~self.held_out.gather(1, self.env.index(reached))

    def unseen_success(self, success: Tensor) -> Tensor:
        """Mean over the held-out goals. [S, G] -> [S]; empty where no goal is held out."""
        if self.held_out is None:
            return success.new_zeros(0)
        return (success * self.held_out).sum(-1) / self.held_out.sum(-1)
