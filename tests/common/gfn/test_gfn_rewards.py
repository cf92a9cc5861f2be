"""RNA binding, QED strings and the cache of reward tables."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from common.gfn import molecule_strings, rna
from common.gfn.tables import cached_table


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERS_CACHE", str(tmp_path))


@pytest.mark.parametrize(
    ("target", "whole", "fitness"),
    [
        ("RNA1", -260.1, 0.543747),
        ("RNA2", -270.3, 0.824481),
        ("RNA3", -215.6, 0.546647),
        ("RNA4", -198.7, 0.625494),
    ],
)
def test_binding_energies(target: str, whole: float, fitness: float) -> None:
    f = rna.Fitness(target, 14)
    assert f.norm * 100 / 14 == pytest.approx(whole, abs=0.05)
    assert f("AUGGGCCGGACCCC") == pytest.approx(fitness, abs=1e-6)
    letters = torch.tensor([["ACGU".index(c) for c in "AUGGGCCGGACCCC"]])
    assert float(f.of_letters(letters)) == f("AUGGGCCGGACCCC")


def test_table_order_and_reward() -> None:
    table = rna.fitness_table("RNA1", 3)
    f = rna.Fitness("RNA1", 3)
    for number in (0, 7, 27, 63):
        string = "".join("ACGU"[number // 4**i % 4] for i in (2, 1, 0))
        assert table[number] == f(string)
    fitness = np.array([-0.2, 0.5, 1.0])
    reward = rna.log_reward(fitness, 8.0).exp()
    assert torch.allclose(
        reward, torch.tensor([10 * 1e-24, 10 * 0.5**8, 10.0], dtype=torch.float64)
    )
    assert float(rna.log_reward(fitness, 8.0, top=2.0).exp()[2]) == pytest.approx(10 * 0.5**8)


def test_all_strings_of_three_blocks_are_molecules() -> None:
    names = [molecule_strings.smiles(s) for s in product(range(11), repeat=3)]
    assert len(names) == 1331 and len(set(names)) == 881
    pairs = {molecule_strings.smiles(s) for s in product(range(11), repeat=2)}
    assert len(pairs) == 76
    # exit and entry atoms: a chain through the ring's positions 1 and 4
    assert molecule_strings.smiles((0, 7, 0)) == "Cc1ccc(C)cc1"


def test_scores() -> None:
    from rdkit import Chem
    from rdkit.Chem import QED

    benzene = Chem.MolFromSmiles("c1ccccc1")  # SA score 1
    assert molecule_strings.score(benzene) == pytest.approx(QED.qed(benzene))
    table = molecule_strings.score_table(2)
    assert table.shape == (121,) and (table > 0).all() and (table < 1).all()
    assert table[7 * 11 + 10] == molecule_strings.score(molecule_strings.molecule((7, 10)))
    assert molecule_strings.mean_pairwise_distance([(0, 1), (0, 1)]) == 0
    assert 0.5 < molecule_strings.mean_pairwise_distance([(0, 1), (7, 7)]) <= 1


def test_tables_are_computed_once_and_damage_is_noticed(tmp_path: Path) -> None:
    calls = []

    def compute() -> np.ndarray:
        calls.append(1)
        return np.arange(4.0)

    for _ in range(2):
        assert (cached_table("t", compute, 4) == np.arange(4)).all()
    assert len(calls) == 1
    file = tmp_path / "gfn" / "t.npy"
    data = bytearray(file.read_bytes())
    data[130] ^= 1
    file.write_bytes(bytes(data))
    assert (cached_table("t", compute, 4) == np.arange(4)).all() and len(calls) == 2
    file.write_bytes(b"")
    assert (cached_table("t", compute, 4) == np.arange(4)).all() and len(calls) == 3
    with pytest.raises(ValueError, match="finite"):
        cached_table("bad", lambda: np.full(4, np.nan), 4)
