"""The tasks of the scale paper, on stand-ins: parents of fragment molecules, and the pipelines."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.gfn.fragments import FragmentEnv, SEHProxy, load_fragments
from common.gfn.objectives import residual
from common.gfn.rows import part_of, whole, with_parents
from common.gfn.sampling import Trajectories, choose_by_inverse_cdf, sample, uniforms
from common.gfn.strings import StringEnv
from common.stacked import seed_generators
from papers.bn.baselines import make_network, pairs_of
from papers.bn.config import Config
from papers.bn.eval import EvalConfig, evaluate
from papers.bn.methods import TRAINED
from papers.bn.sampled import LocalStates, fragment_parents, with_last_stop
from papers.bn.train import train

Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is in the extra 'gfn'")

BLOCKS = {  # the published list's format: one entry per way of attaching
    "block_smi": {"0": "c1ccccc1", "1": "CO", "2": "CO", "3": "O", "4": "c1cn[nH]c1", "5": "CC"},
    "block_r": {
        "0": [0, 2, 3],
        "1": [0, 1],
        "2": [1, 0],
        "3": [0],
        "4": [3, 0, 1],
        "5": [0, 1],
    },
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$PAPERS_DATA with tiny stand-ins, and a cache folder of its own."""
    folder = tmp_path / "data" / "seh"
    folder.mkdir(parents=True)
    (folder / "blocks_PDB_105.json").write_text(json.dumps(BLOCKS))
    torch.manual_seed(0)
    proxy = SEHProxy()
    arrays = {f"p{i:02d}": proxy.get_parameter(n).detach().numpy() for i, n in proxy.ORDER.items()}
    arrays |= {f"p{i:02d}": np.zeros(3, np.float32) for i in (12, 13, 14, 15)}
    arrays["p21"] = np.array([4.0], np.float32)
    np.savez(folder / "seh_proxy.npz", **arrays)
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PAPERS_CACHE", str(tmp_path / "cache"))
    return folder


def test_parents_of_fragment_molecules(data: Path) -> None:
    """Every listed edge exists in the MDP and leads to the same molecule; none is missing."""
    env = FragmentEnv(load_fragments(data / "blocks_PDB_105.json"), max_blocks=5)
    rng = torch.Generator().manual_seed(0)
    state = env.initial((200,))
    seen_root = 0
    for step in range(5):
        mask = env.forward_mask(state)
        mask[..., -1] = False
        action = choose_by_inverse_cdf(mask.float(), torch.rand(200, generator=rng))
        moved = env.step(state, action)
        before, state = state, torch.where(mask.any(-1).view(-1, 1, 1), moved, state)
        parents, exists, actions = fragment_parents(env, state)
        assert not (exists & ~env.leaves(state)).any()
        assert (exists | ~env.leaves(state))[:, 1:].all()  # only a root may lack its entry
        for i in range(0, 200, 4):
            here = Chem.MolToSmiles(env.molecule(state[i]))
            for j in exists[i].nonzero().flatten().tolist():
                parent, back = parents[i, j], actions[i, j]
                assert env.forward_mask(parent)[back], (state[i], j)
                again = env.step(parent.unsqueeze(0), back.unsqueeze(0))[0]
                assert Chem.MolToSmiles(env.molecule(again)) == here
                assert int(env.n_placed(parent)) == int(env.n_placed(state[i])) - 1
                seen_root += j == 0 and step > 0
        newest = env.n_placed(state) - 1  # undoing the last action leads back
        rows = torch.arange(200)[mask.any(-1)]
        assert torch.equal(parents[rows, newest[rows]], before[rows])
        assert torch.equal(actions[rows, newest[rows]], action[rows])
    assert seen_root > 20
    # a root that hangs on by an atom by which no entry attaches has no edge: pyrazole's atom 0
    pyrazole = env.step(env.initial((1,)), torch.tensor([4]))
    joined = env.step(pyrazole, torch.tensor([(0 * env.n_stems + 1) * env.n_blocks + 3]))
    assert fragment_parents(env, joined)[1][0].tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("method", TRAINED)
def test_local_dag_gives_the_enumerated_loss(method: str) -> None:
    """A batch's own small DAG and the DAG of all strings: the same loss, the same gradient."""
    env = StringEnv("prepend_append", 4, 3, lambda x: 0.3 * x.sum(-1))
    dag = env.dag()
    net = make_network(method, seed_generators((0,), 0), env.input_dim, 6, 2, width=16)
    u = uniforms(seed_generators((0,), 1), (4, 8))
    traj = sample(env, lambda s: net(env.encode(s))[..., :6], u)
    log_Z = torch.ones(1)
    rows = env.index(traj.states)
    by_row = Trajectories(rows, traj.actions, traj.mask, rows[..., -1])
    part = part_of(with_parents(dag, rows))
    out = net.from_active_inputs(dag.active[part.rows])
    whole_dag = pairs_of(method, dag, part, out, by_row, log_Z)

    states = traj.states[0].flatten(0, 1)
    back = torch.arange(2).expand(len(states), -1)
    twice = states.unsqueeze(1).expand(-1, 2, -1)
    local = LocalStates(
        states,
        env.backward_step(twice, back),
        env.backward_mask(states),
        env.forward_action(twice, back),
    )
    actions = torch.arange(6).expand(len(local.states), -1)
    small = local.dag(
        env.forward_mask(local.states),
        env.backward_action(actions).contiguous(),
        None,
        torch.arange(8) * 5 + 4,
        env.log_reward(traj.last[0]),
    )
    assert len(local.states) < len(states)
    rows = local.visited.view(1, 8, 5)
    renumbered = Trajectories(rows, traj.actions, traj.mask, rows[..., -1])
    out = net(env.encode(local.states))
    mine = pairs_of(method, small, whole(), out, renumbered, log_Z)
    for (a, wa), (b, wb) in zip(whole_dag, mine, strict=True):
        used = wa > 0
        assert torch.equal(wa, wb)
        assert torch.allclose(residual(a)[used], residual(b)[used], atol=1e-5)


def test_trajectories_that_end_by_themselves_get_a_stop() -> None:
    traj = Trajectories(
        states=torch.tensor([[[0, 1, 2], [0, 3, 3]]]),
        actions=torch.tensor([[[4, 5], [4, 9]]]),
        mask=torch.tensor([[[True, True], [True, True]]]),
        last=torch.tensor([[2, 3]]),
    )
    closed = with_last_stop(traj, stop=9)
    assert closed.actions.tolist() == [[[4, 5, 9], [4, 9, 0]]]
    assert closed.mask.tolist() == [[[True] * 3, [True, True, False]]]
    assert closed.states.tolist() == [[[0, 1, 2, 2], [0, 3, 3, 3]]]


@pytest.mark.parametrize("method", ["bn", "fm", "db", "tb", "stb"])
def test_molecule_pipeline(data: Path, tmp_path: Path, method: str) -> None:
    config = Config(method, "seh", batch=3, steps=4, eval_every=2, width=16, max_blocks=3)
    train(replace(config, out=tmp_path / "r"))
    values = evaluated(tmp_path / "r")
    assert set(values) == {"mean_score", "top_score", "reward_calls", "loss", "similarity"}
    assert np.isfinite(values["loss"]).all() and 0 <= values["similarity"] <= 1


@pytest.mark.parametrize("method", TRAINED)
def test_long_rna_pipeline(data: Path, tmp_path: Path, method: str) -> None:
    pytest.importorskip("RNA", reason="ViennaRNA is in the extra 'gfn'")
    config = Config(method, "rna-long", batch=4, steps=4, eval_every=2, width=16, length=5)
    train(replace(config, uniform_samples=50, out=tmp_path / "r"))
    values = evaluated(tmp_path / "r")
    assert set(values) == {"mean_score", "top_score", "reward_calls", "loss", "modes_found"}
    assert np.isfinite(values["loss"]).all()


def evaluated(folder: Path) -> dict[str, object]:
    evaluate(EvalConfig(run=folder))
    rows = json.loads((folder / "eval.json").read_text())["rows"]
    return {r["metric"]: r["value"] for r in rows}


def test_molecules_resume_bit_identically(data: Path, whole_and_cut: Callable) -> None:
    config = Config("bn", "seh", batch=3, steps=6, eval_every=2, width=16, max_blocks=3)
    whole_and_cut(train, config, 3)


def test_what_the_large_tasks_refuse(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one seed"):
        train(Config("bn", "seh", seed=(0, 1), out=tmp_path / "a"))
    with pytest.raises(UserError, match="uniform"):
        train(Config("uniform", "rna-long", out=tmp_path / "b"))
    (data / "seh_proxy.npz").unlink()
    with pytest.raises(UserError, match=r"seh_proxy\.npz"):
        train(Config("bn", "seh", out=tmp_path / "c"))
