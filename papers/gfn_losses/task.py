"""Environments at the three scales, and the small DAGs on which Theorem 1 is checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from common.gfn.hypergrid import REWARDS, HyperGrid
from papers.gfn_losses.bits import BitSequences
from papers.gfn_losses.method import RegressionLoss, theorem_errors

OBJECTIVES = ("tb", "db", "stb", "fm", "fl-db", "fl-stb", "modified-db", "modified-stb")
GRID_TASKS = tuple(f"{name}-{o}" for name in ("grid", "control") for o in OBJECTIVES)
BIT_TASKS = ("bits-tb", "bits-db", "bits-stb")
MOLECULE_TASKS = ("mols-stb",)
TASKS = (*GRID_TASKS, *BIT_TASKS, *MOLECULE_TASKS, "theory")


@dataclass(frozen=True)
class GridSpec:
    """A HyperGrid experiment (Table 2 of the paper; the sizes are this project's)."""

    ndim: int  # D
    height: int  # H
    reward: str  # name in common.gfn.hypergrid.REWARDS
    lam: float = 0.9  # lambda of STB [paper]
    hidden: int = 256  # width of the two hidden layers [paper]
    lr: float = 1e-3  # Adam [paper]
    lr_log_Z: float = 0.1  # [paper]

    def grad_clip(self, objective: str) -> float:
        """Gradient-norm clip [authors' code]: 1000 for TB and FM, 10 for DB and STB."""
        return 1000.0 if objective in ("tb", "fm") else 10.0

    def env(self, device: torch.device | str) -> HyperGrid:
        """The environment."""
        return HyperGrid(self.ndim, self.height, REWARDS[self.reward], device=device)


GRIDS = {
    "grid": GridSpec(ndim=2, height=16, reward="hard"),
    "control": GridSpec(ndim=3, height=8, reward="standard-1"),
}


@dataclass(frozen=True)
class BitSpec:
    """A bit-sequence experiment, non-autoregressive (Table 3 of the paper)."""

    n_bits: int = 40  # n (paper: 120)
    word_bits: int = 4  # k (paper: 8)
    n_modes: int = 20  # |M| (paper: 60)
    delta: float = 5.0  # a mode is found within this Hamming distance (paper: 30 at n = 120)
    beta: float = 2.0  # reward exponent [paper]
    net: str = "mlp"  # "mlp" (2x256) or "transformer" (paper)
    lam: float = 1.5  # lambda of STB [paper]
    epsilon: float = 0.001  # uniformly random actions [paper]
    hidden: int = 256  # MLP width
    lr: float = 1e-3  # Adam [paper]
    lr_log_Z: float = 2e-3  # of each of the 64 addends of log Z: 0.128 per Adam step [code]
    weight_decay: float = 1e-5  # [code]
    grad_clip: float = 1000.0  # [code]

    def modes(self, device: torch.device | str, seed: int = 0) -> BitSequences:
        """The reward's modes and the test set; the same for every training seed."""
        return BitSequences(
            self.n_bits, self.word_bits, self.n_modes, beta=self.beta, seed=seed, device=device
        )


def grid_spec(task: str, ndim: int | None, height: int | None, reward: str | None) -> GridSpec:
    """The preset of a task with the sizes given on the command line put in."""
    changes = {"ndim": ndim, "height": height, "reward": reward}
    return replace(GRIDS[task.split("-")[0]], **{k: v for k, v in changes.items() if v is not None})


# -- Experiment C: Theorem 1 on enumerated DAGs ---------------------------------------------------


def tree_errors(loss: RegressionLoss) -> dict[str, float]:
    """One-step tree with rewards (1, 2, 5), trajectory balance; no backward parameters."""
    logits = torch.tensor([0.3, -0.2, 0.0], dtype=torch.float64, requires_grad=True)
    log_Z = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    log_reward = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).log()
    return theorem_errors(
        loss, lambda: log_Z + torch.log_softmax(logits, 0), lambda: log_reward, [logits, log_Z], []
    )


@dataclass
class LayeredDAG:
    """Random layered DAG: source, two layers, and terminal objects.

    All trajectories can be enumerated, and every layer of edges is a cut.
    """

    masks: list[Tensor]  # per layer of edges [n_l, n_{l+1}] bool
    log_reward: Tensor  # [n_last]
    logits_f: list[Tensor]  # P_F logits of the edges
    logits_b: list[Tensor]  # P_B logits of the edges
    log_Z: Tensor
    log_flow_f: list[Tensor]  # state flows of the inner layers as they enter p_F
    log_flow_b: list[Tensor]  # ... as they enter p_B (equal values, separate leaves)

    @classmethod
    def random(cls, seed: int, widths: tuple[int, ...] = (1, 3, 4, 3)) -> LayeredDAG:
        """Random masks, rewards and parameters in float64."""
        rng = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=rng, dtype=torch.float64)

        masks, logits_f, logits_b = [], [], []
        for n, m in pairwise(widths):
            mask = torch.rand(n, m, generator=rng) < 0.7
            mask[torch.arange(max(n, m)) % n, torch.arange(max(n, m)) % m] = True
            masks.append(mask)
            logits_f.append(normal(n, m).requires_grad_())
            logits_b.append(normal(n, m).requires_grad_())
        flows = [normal(n) for n in widths[1:-1]]
        return cls(
            masks=masks,
            log_reward=normal(widths[-1]),
            logits_f=logits_f,
            logits_b=logits_b,
            log_Z=normal(1).squeeze(0).requires_grad_(),
            log_flow_f=[x.clone().requires_grad_() for x in flows],
            log_flow_b=[x.clone().requires_grad_() for x in flows],
        )

    def log_pf(self, layer: int) -> Tensor:
        """log P_F of the edges of a layer, -inf where there is none. [n, m]."""
        logits = self.logits_f[layer].masked_fill(~self.masks[layer], -torch.inf)
        return torch.log_softmax(logits, 1)

    def log_pb(self, layer: int) -> Tensor:
        """log P_B of the edges of a layer. [n, m]."""
        logits = self.logits_b[layer].masked_fill(~self.masks[layer], -torch.inf)
        return torch.log_softmax(logits, 0)

    def trajectories(self) -> Tensor:
        """All paths as node numbers per layer. [n_paths, n_layers]."""
        paths = torch.zeros(1, 1, dtype=torch.long)
        for mask in self.masks:
            src, dst = mask[paths[:, -1]].nonzero(as_tuple=True)
            paths = torch.cat([paths[src], dst.unsqueeze(1)], 1)
        return paths

    def trajectory_errors(self, loss: RegressionLoss) -> dict[str, float]:
        """Theorem 1 for TB: the objects are all trajectories."""
        paths = self.trajectories()

        def forward() -> Tensor:
            steps = [self.log_pf(i)[paths[:, i], paths[:, i + 1]] for i in range(len(self.masks))]
            return self.log_Z + torch.stack(steps).sum(0)

        def backward() -> Tensor:
            steps = [self.log_pb(i)[paths[:, i], paths[:, i + 1]] for i in range(len(self.masks))]
            return self.log_reward[paths[:, -1]] + torch.stack(steps).sum(0)

        return theorem_errors(loss, forward, backward, [*self.logits_f, self.log_Z], self.logits_b)

    def edge_errors(self, loss: RegressionLoss) -> dict[str, float]:
        """Theorem 1 for DB: the objects are all edges, the cuts the layers of edges."""

        def forward() -> Tensor:
            flows = [self.log_Z.unsqueeze(0), *self.log_flow_f]
            return torch.cat(
                [
                    (flows[i].unsqueeze(1) + self.log_pf(i))[mask]
                    for i, mask in enumerate(self.masks)
                ]
            )

        def backward() -> Tensor:
            flows = [*self.log_flow_b, self.log_reward]
            return torch.cat(
                [
                    (flows[i].unsqueeze(0) + self.log_pb(i))[mask]
                    for i, mask in enumerate(self.masks)
                ]
            )

        return theorem_errors(
            loss,
            forward,
            backward,
            [*self.logits_f, self.log_Z, *self.log_flow_f],
            [*self.logits_b, *self.log_flow_b],
        )


def theory_errors(loss: RegressionLoss, seeds: range = range(3)) -> list[tuple[str, str, float]]:
    """Experiment C: (DAG, part of the theorem, relative gradient error), worst over random DAGs."""
    worst: dict[tuple[str, str], float] = {}
    for part, error in tree_errors(loss).items():
        worst["tree", part] = error
    for seed in seeds:
        dag = LayeredDAG.random(seed)
        for name, errors in (
            ("layered TB", dag.trajectory_errors(loss)),
            ("layered DB", dag.edge_errors(loss)),
        ):
            for part, error in errors.items():
                worst[name, part] = max(error, worst.get((name, part), 0.0))
    return [(name, part, error) for (name, part), error in worst.items()]
