"""The tasks of the scale paper, on stand-ins: the loss on a batch's own DAG, and the pipelines."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.gfn.local_dag import strings_around
from common.gfn.objectives import residual
from common.gfn.rows import part_of, whole, with_parents
from common.gfn.sampling import Trajectories, sample, uniforms
from common.gfn.strings import StringEnv
from common.stacked import seed_generators
from papers.bn.baselines import make_network, pairs_of
from papers.bn.config import Config
from papers.bn.eval import EvalConfig, evaluate
from papers.bn.methods import TRAINED
from papers.bn.train import train
from tests import stand_ins

Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is in the extra 'gfn'")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$PAPERS_DATA with tiny stand-ins, and a cache folder of its own."""
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PAPERS_CACHE", str(tmp_path / "cache"))
    return stand_ins.seh(tmp_path / "data")


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

    visited, ends = traj.states[0].flatten(0, 1), torch.arange(8) * 5 + 4
    log_reward = env.log_reward(traj.last[0])
    local = strings_around(env, visited, log_reward, ends, children=False)
    assert len(local.states) < len(visited)
    out = net(env.encode(local.states))
    mine = pairs_of(method, local.dag, whole(), out, local.along(traj), log_Z)
    for (a, wa), (b, wb) in zip(whole_dag, mine, strict=True):
        used = wa > 0
        assert torch.equal(wa, wb)
        assert torch.allclose(residual(a)[used], residual(b)[used], atol=1e-5)


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
