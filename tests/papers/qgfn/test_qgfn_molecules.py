"""The molecule tasks on stand-in files: fragments with a random proxy, a table of gaps."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.gfn.fragments import FragmentEnv, SEHProxy, load_fragments
from common.gfn.sampling import choose_by_inverse_cdf
from common.run import Run
from papers.qgfn.eval import EvalConfig, evaluate
from papers.qgfn.method import MIXTURES
from papers.qgfn.methods import METHODS
from papers.qgfn.molecules import FragmentTransformer, Modes, mean_similarity
from papers.qgfn.task import qm9_task
from papers.qgfn.train import Config, train

pytest.importorskip("rdkit.Chem", reason="RDKit is in the extra 'gfn'")

BLOCKS = {
    "block_smi": {"0": "c1ccccc1", "1": "CO", "2": "CO", "3": "O", "4": "c1cn[nH]c1"},
    "block_r": {"0": [0, 1, 2, 3, 4, 5], "1": [0, 1], "2": [1, 0, 0, 0], "3": [0], "4": [3, 0, 1]},
}
SMALL = {"task": "seh", "batch": 3, "steps": 6, "eval_every": 2, "width": 16, "max_blocks": 4}
PS = (0.0, 0.5, 1.0)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$PAPERS_DATA with tiny stand-ins."""
    folder = tmp_path / "data" / "seh"
    folder.mkdir(parents=True)
    (folder / "blocks_PDB_105.json").write_text(json.dumps(BLOCKS))
    torch.manual_seed(0)
    proxy = SEHProxy()
    arrays = {f"p{i:02d}": proxy.get_parameter(n).detach().numpy() for i, n in proxy.ORDER.items()}
    arrays["p21"] = np.array([7.3], np.float32)
    np.savez(folder / "seh_proxy.npz", **arrays)
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path / "data"))
    return folder


def grown(env: FragmentEnv, n: int, steps: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    state = env.initial((n,))
    for _ in range(steps):
        mask = env.forward_mask(state)
        mask[..., -1] = False
        action = choose_by_inverse_cdf(mask.float(), torch.rand(n, generator=rng))
        state = torch.where(mask.any(-1).view(-1, 1, 1), env.step(state, action), state)
    return state


def test_transformer_sees_the_tree_and_no_empty_slots(data: Path) -> None:
    fragments = load_fragments(data / "blocks_PDB_105.json")
    env, wide = FragmentEnv(fragments, max_blocks=5), FragmentEnv(fragments, max_blocks=7)
    torch.manual_seed(0)
    net = FragmentTransformer(env, 16).eval()
    same = FragmentTransformer(wide, 16).eval()
    same.load_state_dict(net.state_dict())
    state = grown(env, 20, 3)
    padded = torch.cat([state, wide.initial((20,))[:, :2]], 1)
    out, flow = net(state)
    out_wide, flow_wide = same(padded)
    assert out.shape == (20, env.n_actions)
    assert torch.allclose(flow, flow_wide, atol=1e-5)
    mask = env.forward_mask(state)[:, :-1]
    used = 5 * env.n_stems * env.n_blocks
    assert torch.allclose(out[:, :-1][mask], out_wide[:, :used][mask], atol=1e-5)
    assert torch.allclose(out[:, -1], out_wide[:, -1], atol=1e-5)
    # the same fragments joined otherwise give other outputs
    chain = torch.tensor([[[0, -1, -1], [4, 0, 1], [4, 1, 1], [5, -1, -1], [5, -1, -1]]])
    star = torch.tensor([[[0, -1, -1], [4, 0, 1], [4, 0, 1], [5, -1, -1], [5, -1, -1]]])
    assert (net(chain)[1] - net(star)[1]).abs() > 1e-5


@pytest.mark.parametrize("method", ["p-greedy", "p-quantile", "p-of-max-n3", "tb", "dqn"])
def test_training_pipeline(data: Path, tmp_path: Path, method: str) -> None:
    config = Config(method=method, samples=5, sweep=PS, out=tmp_path / "r", **SMALL)
    train(config)
    evaluate(EvalConfig(run=tmp_path / "r"))
    rows = json.loads((tmp_path / "r" / "eval.json").read_text())["rows"]
    values = {(r["metric"], r.get("mixture")): r["value"] for r in rows}
    assert {"mean_reward", "mean_reward_last", "modes_found"} <= {metric for metric, _ in values}
    assert 0 < values["final_reward", None] < 2 and 0 <= values["final_distance", None] <= 1
    swept = {mixture for metric, mixture in values if metric == "sweep_distance"}
    assert swept == (set(MIXTURES) if METHODS[method].sweeps else set())
    if swept:  # the pair is sampled at every p, and at p = 0 it is P_F whatever the mixture
        assert values["p0_gap", None] == 0
        assert len({values["sweep_reward", m][0] for m in MIXTURES}) == 1
        assert all(len(values["sweep_reward", m]) == len(PS) for m in MIXTURES)
    final = Run.load(tmp_path / "r").final()
    torch.manual_seed(0)
    env = FragmentEnv(load_fragments(data / "blocks_PDB_105.json"), max_blocks=4)
    start = FragmentTransformer(env, 16).state_dict()
    moved = {
        k: not torch.equal(final[k]["add.0.weight"], start["add.0.weight"]) for k in ("policy",)
    }
    assert moved["policy"] == (method != "dqn")


def test_resume_is_bit_identical(data: Path, whole_and_cut: Callable) -> None:
    config = Config(method="p-of-max-n1", samples=3, sampling_tau=0.9, **SMALL)
    whole, cut = whole_and_cut(train, config, 3)
    for part in ("policy", "q", "lagged", "follower"):
        for name, value in whole[part].items():
            assert torch.equal(value, cut[part][name]), (part, name)


def test_modes_are_high_and_dissimilar() -> None:
    modes = Modes()
    modes.add(["c1ccccc1C", "CCO", "c1ccccc1C"], [0.95, 0.5, 0.95])
    assert modes.names == ["c1ccccc1C"]
    modes.add(["c1ccccc1CC", "CCCCN", "OCC"], [0.95, 0.91, 0.89])
    assert "CCCCN" in modes.names and "OCC" not in modes.names
    assert mean_similarity(["CCO", "CCO"]) == 1.0


def test_user_table_of_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "qm9str"
    folder.mkdir()
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    gaps = np.linspace(0.1, 0.4, 11**2)
    gaps[7] = np.nan
    np.save(folder / "gap.npy", gaps)
    task = qm9_task(2)
    reward, _ = task.score(torch.tensor([[0, 7], [10, 10]]))
    assert reward[0] == -10 and reward[1] > 1
    config = Config(task="qm9str", length=2, hidden=8, steps=4, eval_every=2, out=tmp_path / "r")
    train(replace(config, method="p-of-max", beta=4.0))
    evaluate(EvalConfig(run=tmp_path / "r", samples=5))
    with pytest.raises(UserError, match="121"):
        qm9_task(3)
    (folder / "gap.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match="NumPy"):
        qm9_task(2)


def test_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    with pytest.raises(UserError, match="blocks_PDB_105"):
        train(Config(task="seh", out=tmp_path / "r"))
    with pytest.raises(UserError, match="one --seed"):
        train(Config(task="seh", seed=(0, 1), out=tmp_path / "r"))
