"""Environments at the three scales: forced-stop hypergrids, AB10, and the paper's molecules."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.gfn.hypergrid import REWARDS, HyperGrid, band_indices, outer_indices
from common.gfn.molecule_strings import BLOCKS
from common.gfn.strings import StringEnv

# -- Hypergrids ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GridSpec:
    """A hypergrid that ends where a coordinate touches H-1 (the authors' variant)."""

    ndim: int  # D
    height: int  # H
    reward: str  # name in common.gfn.hypergrid.REWARDS: sparse-5 is R0=1e-5, R1=0.5, R2=2

    def env(self, device: torch.device | str = "cpu") -> HyperGrid:
        """The environment."""
        return HyperGrid(
            self.ndim, self.height, REWARDS[self.reward], forced_stop=True, device=device
        )

    @property
    def n_objects(self) -> int:
        """Number of terminal states: at most one coordinate is H-1."""
        n = self.height - 1
        return n**self.ndim + self.ndim * n ** (self.ndim - 1)

    def _total(self, inner: int, at_border: int) -> int:
        """Objects all of whose coordinates lie in a set with ``inner`` values below H-1."""
        d = self.ndim
        return inner**d + d * at_border * inner ** (d - 1)

    @property
    def Z(self) -> float:
        """sum_x R(x)."""
        r0, r1, r2 = REWARDS[self.reward]
        last = self.height - 1
        outer = outer_indices(self.height)
        n_outer = self._total(sum(x < last for x in outer), last in outer)
        return r0 * self.n_objects + r1 * n_outer + r2 * self.n_mode_cells

    @property
    def n_mode_cells(self) -> int:
        """Objects in the 2^D regions."""
        band = band_indices(self.height)
        return self._total(sum(x < self.height - 1 for x in band), self.height - 1 in band)

    @property
    def mode_mass(self) -> float:
        """The target's probability of the 2^D regions."""
        return self.n_mode_cells * sum(REWARDS[self.reward]) / self.Z


#: S, M, L of the default scale; a small grid to look at; the paper's other studies.
GRIDS = {
    "grid-s": GridSpec(3, 20, "sparse-5"),
    "grid-m": GridSpec(4, 20, "sparse-5"),
    "grid-l": GridSpec(5, 20, "sparse-5"),
    "grid-l4": GridSpec(5, 20, "sparse-4"),
    "grid-l3": GridSpec(5, 20, "standard-3"),
    "map": GridSpec(2, 20, "sparse-5"),
    "objective": GridSpec(5, 16, "sparse-4"),
    "ablation": GridSpec(3, 16, "sparse-5"),
    "smoke": GridSpec(2, 12, "sparse-5"),
}

# -- AB10: an antibody-like design task with a real stability index --------------------------------

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
N_POSITIONS = 10
#: Heavy-chain variable domain of adalimumab (public sequence), its first 120 residues; the design
#: replaces the first ten. As it is, its instability index is 41.6; of random designs 1.4 % lie
#: below 35.
CHAIN = (
    "EVQLVESGGGLVQPGRSLRLSCAASGFTFDDYAMHWVRQAPGKGLEWVSAITWNSGHIDYADSVEGRFTISRDNAKNSLYLQMNSLRAEDTAVYYC"
    "AKVSYLSTASSLDYWGQGTLVTVS"
)
STABLE = 35.0  # instability index below which a design counts as found (40 is the usual border)


class Instability:
    """Instability index (Guruprasad et al., 1990) of designs put before the fixed chain's rest.

    ``Bio.SeqUtils.ProtParam.ProteinAnalysis.instability_index``, from Biopython's own table of
    dipeptide weights, vectorised (a test compares them).
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        from Bio.SeqUtils.ProtParamData import DIWV

        table = [[DIWV[a][b] for b in AMINO_ACIDS] for a in AMINO_ACIDS]
        self.weight = torch.tensor(table, dtype=torch.float64, device=device)
        rest = torch.tensor([AMINO_ACIDS.index(c) for c in CHAIN[N_POSITIONS:]], device=device)
        self.next = rest[0]
        self.fixed = self.weight[rest[:-1], rest[1:]].sum()

    def __call__(self, designs: Tensor) -> Tensor:
        """[..., 10] amino-acid numbers -> [...] float64."""
        inside = self.weight[designs[..., :-1], designs[..., 1:]].sum(-1)
        return 10 / len(CHAIN) * (inside + self.weight[designs[..., -1], self.next] + self.fixed)

    def log_reward(self, designs: Tensor) -> Tensor:
        """log of 2^((50 - II)/10) [authors' code]. [..., 10] -> [...]."""
        return (50 - self(designs)) / 10 * float(np.log(2))


def ab10_env(device: torch.device | str = "cpu") -> StringEnv:
    """Ten empty slots, filled with amino acids in any order."""
    index = Instability(device)
    return StringEnv("slots", N_POSITIONS, len(AMINO_ACIDS), index.log_reward, device=device)


# -- QM9 strings (scale ``paper``) -----------------------------------------------------------------

QM9_LENGTH = 5  # blocks per molecule: 11^5 = 161 051 strings


def qm9_table(name: str = "qm9str.npy", length: int = QM9_LENGTH) -> np.ndarray:
    """Rewards of all 11^length strings of blocks, user-supplied: [11^length] positive numbers.

    In base-11 order, first block most significant; blocks as in ``common.gfn.molecule_strings``.

    Raises:
        UserError: says what to obtain and where to put it.
    """
    n = len(BLOCKS) ** length
    what = (
        f"an array of {n} positive rewards (numpy.save; HOMO-LUMO gaps of the pretrained network "
        "of the release maxwshen/gflownet, base-11 order of its 11 blocks)"
    )
    root = os.environ.get("PAPERS_DATA")
    if not root:
        raise UserError(
            f"the QM9 task needs {name}, {what}: put it into a folder qm9/ in a folder "
            "that PAPERS_DATA names"
        )
    path = Path(root) / "qm9" / name
    if not path.is_file():
        raise UserError(f"{path} is missing: {what}")
    try:
        table = np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is no such array: {what}") from error
    if table.shape != (n,) or not (table > 0).all():
        raise UserError(f"{path} holds {table.shape}: {what}")
    return table


def table_reward(table: np.ndarray, device: torch.device | str) -> Callable[[Tensor], Tensor]:
    """log R of complete strings, read from a table in base-11 order."""
    log_reward = torch.from_numpy(np.log(table)).to(device)
    length = round(np.log(len(table)) / np.log(len(BLOCKS)))
    radix = len(BLOCKS) ** torch.arange(length - 1, -1, -1, device=device)

    def of(strings: Tensor) -> Tensor:
        return log_reward[(strings * radix).sum(-1)]

    return of


def qm9_env(table: np.ndarray, device: torch.device | str = "cpu") -> StringEnv:
    """Blocks are put before or after the chain."""
    length = round(np.log(len(table)) / np.log(len(BLOCKS)))
    return StringEnv(
        "prepend_append", length, len(BLOCKS), table_reward(table, device), device=device
    )


STRING_TASKS = ("ab10", "qm9str")
TASKS = (*GRIDS, *STRING_TASKS, "seh")
