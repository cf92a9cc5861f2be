"""Binding of short RNA strings to a target (the FLEXS benchmarks), by ViennaRNA's duplexfold.

f_T(x) = E(T, x) / E_norm, E(a, b) the duplex energy, E_norm = E(reverse complement of T, T) L/|T|.
Strings that bind with positive energy have f < 0.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from common.errors import choose
from common.gfn.tables import cached_table

LETTERS = "ACGU"
#: The four targets of 100 nucleotides of the public FLEXS registry.
TARGETS = {
    "RNA1": (
        "GAACGAGGCACAUUCCGGCUCGCCCGGCCCAUGUGAGCAUGGGCCGGACC"
        "CCGUCCGCGCGGGGCCCCCGCGCGGACGGGGGCGAGCCGGAAUGUGCCUC"
    ),
    "RNA2": (
        "GAGGCACAUUCCGGCUCGCCCCCGUCCGCGCGGGGGCCCCGCGCGGACGG"
        "GGUCCGGCCCGCGCGGGGCCCCCGCGCGGGAGCCGGAAUGUGCCUCGUUC"
    ),
    "RNA3": (
        "CCGGUGAUACUGUUAGUGGUCACGGUGCAUUUAUAGCGCUAAAGUACAGU"
        "CUUCCCCUGUUGAACGGCGCCAUUGCAUACAGGGCCAGCCGCGUAACGCC"
    ),
    "RNA4": (
        "UAAGAGAGCGUAAAAAUAGAGAUAUGUUCUUGGGUCAGGGCUAUGCGUAC"
        "CCCAUGAGAGUAAAUCAUACCCCCAAUGGGCUUCGGCGGAAAUUCACUUA"
    ),
}
_COMPLEMENT = str.maketrans("ACGU", "UGCA")


def reverse_complement(string: str) -> str:
    """The strand that pairs with ``string``, read in its own direction."""
    return string.translate(_COMPLEMENT)[::-1]


class Fitness:
    """f_T of strings of one length; every string is folded once.

    Args:
        target: a name in TARGETS.
        length: L, which enters the normalisation.
    """

    def __init__(self, target: str, length: int) -> None:
        import RNA

        choose("target", target, tuple(TARGETS))
        self._energy = RNA.duplexfold
        self.target, self.length = TARGETS[target], length
        whole = self._energy(reverse_complement(self.target), self.target).energy
        self.norm = whole * length / len(self.target)
        self._known: dict[str, float] = {}

    def __call__(self, string: str) -> float:
        """f_T(string)."""
        if string not in self._known:
            self._known[string] = self._energy(self.target, string).energy / self.norm
        return self._known[string]

    def of_letters(self, strings: Tensor) -> Tensor:
        """f_T of complete strings of letter numbers. [..., L] -> [...] float64."""
        flat = strings.reshape(-1, self.length).tolist()
        values = [self("".join(LETTERS[i] for i in row)) for row in flat]
        return torch.tensor(values, dtype=torch.float64).view(strings.shape[:-1])


def fitness_table(target: str, length: int) -> np.ndarray:
    """f_T of all 4^L strings, in base-4 order, first letter most significant. [4^L] float64.

    For L <= 8 (about a minute at L = 8, once per cache folder).
    """
    import RNA

    def compute() -> np.ndarray:
        fitness = Fitness(target, length)
        n = 4**length
        digits = np.arange(n)[:, None] // 4 ** np.arange(length - 1, -1, -1) % 4
        letters = np.array(list(LETTERS))[digits]
        return np.array([fitness("".join(row)) for row in letters])

    choose("target", target, tuple(TARGETS))
    return cached_table(f"rna-{target}-{length}-{RNA.__version__}", compute, 4**length)


def log_reward(
    fitness: np.ndarray | Tensor,
    beta: float,
    *,
    floor: float = 1e-3,
    maximum: float = 10.0,
    top: float | None = None,
) -> Tensor:
    """log of max(f, floor)^beta, rescaled so that fitness ``top`` has reward ``maximum``. float64.

    Args:
        top: default: the largest fitness given (right for a whole table).
    """
    f = torch.as_tensor(fitness, dtype=torch.float64).clamp(min=floor)
    best = float(f.max()) if top is None else top
    result: Tensor = beta * (f.log() - math.log(best)) + math.log(maximum)
    return result
