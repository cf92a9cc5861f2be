"""The molecule pipeline on stand-in files of the published format with a random-weight proxy."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.gfn.fragments import FragmentEnv, ProxyReward, load_fragments, load_proxy
from common.gfn.sampling import choose_by_inverse_cdf
from common.run import Run
from papers.gfn_losses.config import Config
from papers.gfn_losses.eval import EvalConfig, evaluate
from papers.gfn_losses.train import train

Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is in the extra 'gfn'")


def random_states(env: FragmentEnv, n: int, steps: int, seed: int = 0) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    states = [env.initial((n,))]
    for _ in range(steps):
        mask = env.forward_mask(states[-1])
        mask[..., -1] = False
        action = choose_by_inverse_cdf(mask.float(), torch.rand(n, generator=rng))
        moved = env.step(states[-1], action)
        alive = mask.any(-1).view(-1, 1, 1)
        states.append(torch.where(alive, moved, states[-1]))
    return states


def test_mdp_and_molecules(data: Path) -> None:
    fragments = load_fragments(data / "blocks_PDB_105.json")
    env = FragmentEnv(fragments, max_blocks=5)
    start = env.forward_mask(env.initial((1,)))[0]
    assert start.nonzero().flatten().tolist() == list(range(5))  # any first fragment, no stop
    states = random_states(env, 64, 5)
    for state in states[-1]:
        rows = state[state[:, 0] != env.n_blocks]
        mol = env.molecule(state)
        sizes = [Chem.MolFromSmiles(fragments.smiles[b]).GetNumAtoms() for b in rows[:, 0]]
        assert mol.GetNumAtoms() == sum(sizes)
        assert len(Chem.GetMolFrags(mol)) == 1
        used = [(p, r) for _, p, r in rows.tolist() if p >= 0]
        assert len(used) == len(set(used))  # a stem is used once
    # number of in-edges = fragments of degree one, counted slowly
    for state in states[3][:20]:
        rows = state[state[:, 0] != env.n_blocks].tolist()
        degree = [0] * len(rows)
        for j, (_, parent, _) in enumerate(rows):
            if parent >= 0:
                degree[j] += 1
                degree[parent] += 1
        slow = 1 if len(rows) == 1 else sum(d == 1 for d in degree)
        assert int(env.leaves(state).sum()) == slow
    # oxygen on oxygen has no stem left: the molecule ends by itself
    first = env.step(env.initial((1,)), torch.tensor([3]))
    second = env.step(first, torch.tensor([3]))
    assert not env.forward_mask(second).any()
    assert Chem.MolToSmiles(env.molecule(second[0])) == "OO"
    # a bond to an aromatic nitrogen takes its explicit hydrogen
    pyrazole = env.step(env.initial((1,)), torch.tensor([0]))
    joined = env.step(pyrazole, torch.tensor([(0 * env.n_stems + 1) * 5 + 4]))
    assert Chem.MolToSmiles(env.molecule(joined[0])) == "c1ccc(-n2cccn2)cc1"


def test_proxy_matches_a_slow_computation(data: Path) -> None:
    proxy = load_proxy(data / "seh_proxy.npz")
    env = FragmentEnv(load_fragments(data / "blocks_PDB_105.json"), max_blocks=5)
    states = random_states(env, 4, 3)[-1]
    reward = ProxyReward(env, proxy)
    scores, names = reward(states)
    alone = torch.cat([ProxyReward(env, proxy)(s.unsqueeze(0))[0] for s in states])
    assert torch.allclose(scores, alone, atol=1e-5)  # batching changes nothing
    calls = reward.calls
    reward(states)
    assert reward.calls == calls == len(set(names))  # cached
    expected = (torch.clamp(scores, min=0.1) / 8) ** 4
    assert torch.allclose(reward.log_reward(scores).exp(), expected)


def test_training_pipeline(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "4")
    config = Config(
        method="linex05", task="mols-stb", batch=3, steps=6, eval_every=2, width=16, max_blocks=4
    )
    train(replace(config, out=tmp_path / "r"))
    evaluate(EvalConfig(run=tmp_path / "r"))
    rows = json.loads((tmp_path / "r" / "eval.json").read_text())["rows"]
    values = {r["metric"]: r["value"] for r in rows}
    assert set(values) == {"mean_score", "top_score", "reward_calls", "similarity"}
    assert np.isfinite(values["mean_score"]).all() and 0 <= values["similarity"] <= 1


def test_a_resumed_run_knows_its_scores(
    data: Path, tmp_path: Path, whole_and_cut: Callable
) -> None:
    config = Config(
        method="linex05", task="mols-stb", batch=4, steps=8, eval_every=2, width=16, max_blocks=2
    )
    whole_and_cut(train, config, 4)
    calls = Run.load(tmp_path / "cut").metrics()[-1]["reward_calls"]
    assert calls < 32  # some molecules came twice


def test_missing_and_wrong_files(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(task="mols-stb", steps=1, out=tmp_path / "r")
    (data / "seh_proxy.npz").rename(data / "elsewhere.npz")
    with pytest.raises(UserError, match=r"seh_proxy\.npz.*numpy\.savez"):
        train(config)
    np.savez(data / "seh_proxy.npz", p00=np.zeros((2, 2)))
    with pytest.raises(UserError, match="p00"):
        train(config)
    np.save(data / "bad.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (data / "bad.npy").rename(data / "seh_proxy.npz")
    with pytest.raises(UserError, match="no proxy file"):
        train(config)
    (data / "blocks_PDB_105.json").write_text('{"block_smi": ["xx"], "block_r": [[0]]}')
    with pytest.raises(UserError, match="xx"):
        train(config)
    (data / "blocks_PDB_105.json").write_text("[]")
    with pytest.raises(UserError, match="fragment list"):
        train(config)
    monkeypatch.delenv("PAPERS_DATA")
    with pytest.raises(UserError, match="PAPERS_DATA"):
        train(config)
