"""String molecules: chains of 11 blocks with an entry and an exit atom; the *string* is the object.

Reward without downloads: QED * clip((10 - SA)/9, 0, 1) by RDKit. An experiment on it is called
"QED strings", after its reward.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from common.gfn.tables import cached_table

#: (SMILES, entry atom, exit atom)
BLOCKS: tuple[tuple[str, int, int], ...] = (
    ("C", 0, 0),
    ("O", 0, 0),
    ("N", 0, 0),
    ("CF", 0, 0),
    ("C=O", 0, 0),
    ("C=C", 0, 1),
    ("C#C", 0, 1),
    ("c1ccccc1", 0, 3),
    ("C1CCCCC1", 0, 3),
    ("C1CCNC1", 0, 2),
    ("CCC", 0, 0),
)


def molecule(blocks: Sequence[int]) -> Any:
    """The sanitised molecule of a chain: single bonds from exit to entry, left to right."""
    from rdkit import Chem

    whole = None
    at = 0
    for number in blocks:
        smiles, entry, exit_ = BLOCKS[number]
        part = Chem.MolFromSmiles(smiles)
        if whole is None:
            whole = Chem.RWMol(part)
            at = exit_
            continue
        offset = whole.GetNumAtoms()
        whole = Chem.RWMol(Chem.CombineMols(whole, part))
        whole.AddBond(at, offset + entry, Chem.BondType.SINGLE)
        at = offset + exit_
    if whole is None:
        raise ValueError("a molecule needs at least one block")
    finished = whole.GetMol()
    Chem.SanitizeMol(finished)
    return finished


def smiles(blocks: Sequence[int]) -> str:
    """Canonical SMILES of a chain."""
    from rdkit import Chem

    return str(Chem.MolToSmiles(molecule(blocks)))


@cache
def _sascorer() -> Any:
    """RDKit's contributed synthetic-accessibility score, which is shipped beside the package."""
    from rdkit.Chem import RDConfig

    path = Path(RDConfig.RDContribDir) / "SA_Score" / "sascorer.py"
    spec = importlib.util.spec_from_file_location("sascorer", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def score(mol: Any) -> float:
    """QED * clip((10 - SA)/9, 0, 1), in [0, 1]."""
    from rdkit.Chem import QED

    accessible = (10 - _sascorer().calculateScore(mol)) / 9
    return float(QED.qed(mol) * min(max(accessible, 0.0), 1.0))


def score_table(length: int) -> np.ndarray:
    """Scores of all 11^L strings in base-11 order, first block most significant. For L <= 4."""
    import rdkit

    n = len(BLOCKS) ** length

    def compute() -> np.ndarray:
        radix = len(BLOCKS) ** np.arange(length - 1, -1, -1)
        strings = np.arange(n)[:, None] // radix % len(BLOCKS)
        known: dict[str, float] = {}
        values = np.empty(n)
        for i, row in enumerate(strings):
            mol = molecule([int(b) for b in row])
            from rdkit import Chem

            name = Chem.MolToSmiles(mol)
            if name not in known:
                known[name] = score(mol)
            values[i] = known[name]
        return values

    return cached_table(f"qed-sa-{length}-{rdkit.__version__}", compute, n)


def mean_pairwise_distance(strings: Sequence[Sequence[int]]) -> float:
    """Mean of 1 - Tanimoto similarity (RDKit fingerprints) over all pairs of strings, in [0, 1]."""
    from rdkit import Chem
    from rdkit.DataStructs import BulkTanimotoSimilarity

    known = {tuple(s): None for s in strings}
    prints = {s: Chem.RDKFingerprint(molecule(s)) for s in known}
    rows = [prints[tuple(s)] for s in strings]
    total = sum(
        len(rows) - 1 - i - sum(BulkTanimotoSimilarity(rows[i], rows[i + 1 :]))
        for i in range(len(rows) - 1)
    )
    return float(total / (len(rows) * (len(rows) - 1) / 2))
