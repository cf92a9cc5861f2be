"""The training code.

Exact solutions are fixed points, table and network paths agree, runs resume.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from common.gfn.coordinates import sample_states, visit_distinct, visit_states
from common.gfn.exact import exact_log_flows, exact_policies
from common.gfn.hypergrid import HyperGrid
from common.gfn.nets import StackedMLP
from common.gfn.rollout import CompiledTrajectories
from common.gfn.rows import visit, whole
from common.gfn.sampling import Trajectories, sample, sample_from_table, uniforms
from common.gfn.strings import BIT_BLOCKS
from common.run import Run
from common.stacked import adam, seed_generators
from papers.gfn_losses import grid
from papers.gfn_losses.bits import BitSequences, bits_loss, mark_modes
from papers.gfn_losses.config import Config
from papers.gfn_losses.eval import EvalConfig, evaluate
from papers.gfn_losses.method import LOSSES
from papers.gfn_losses.task import BitSpec
from papers.gfn_losses.train import train

ENV = HyperGrid(2, 6, "standard-2")
OBJECTIVES = ("tb", "db", "stb", "fm", "fl-db", "fl-stb", "modified-db", "modified-stb")


def trajectories(n_seeds: int = 2, batch: int = 8) -> Trajectories:
    dag = ENV.dag()
    uniform = (dag.forward_mask / dag.forward_mask.sum(-1, keepdim=True)).log()
    u = uniforms(seed_generators(range(n_seeds), 5), (ENV.max_length, batch))
    return sample_from_table(dag, uniform.expand(n_seeds, -1, -1), u)


def exact_output(name: str) -> torch.Tensor:
    """Network output that is the exact uniform-P_B solution. [1, N, D+1 + D + 1] float64."""
    dag = ENV.dag()
    log_pf, log_pb, log_flow = exact_policies(dag)
    head = log_pf
    if name == "fm":
        head = exact_log_flows(dag)[1]
    flow = log_flow - dag.log_reward if name.startswith("fl-") else log_flow
    out = torch.cat([head, log_pb, flow.unsqueeze(-1)], -1)
    return out.clamp(min=-1e6).unsqueeze(0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_exact_solution_has_no_loss_and_no_gradient(name: str, loss: str) -> None:
    dag = ENV.dag()
    out = exact_output(name).expand(2, -1, -1).clone().requires_grad_()
    log_Z = torch.full((2,), dag.log_Z, dtype=torch.float64, requires_grad=True)
    traj = trajectories()
    visited = visit(dag, whole(), out, traj, fm=name == "fm")
    # rewards enter in float32
    value, logged = grid.grid_loss(name, visited, traj, ENV.stop, log_Z, 0.9, LOSSES[loss], 50.0)
    assert logged.abs().max() < 1e-9
    (grad,) = torch.autograd.grad(value.sum(), out)
    assert grad.abs().max() < 1e-5
    # and the check can fail: the same trajectories with a wrong reward
    wrong = replace(visited, log_reward_last=visited.log_reward_last + 0.5)
    _, off = grid.grid_loss(name, wrong, traj, ENV.stop, log_Z, 0.9, LOSSES[loss], 50.0)
    if not name.startswith("modified-db"):  # its stop edge is an identity
        assert off.min() > 1e-3


@pytest.mark.parametrize("name", OBJECTIVES)
def test_table_and_network_paths_agree(name: str) -> None:
    """Evaluating all states and gathering = evaluating the visited states only."""
    net = StackedMLP(seed_generators((0, 1), 0), (ENV.input_dim, 16, 16, 6)).double()
    traj = trajectories()
    dag = ENV.dag()
    coordinates = ENV.all_states()
    by_states = Trajectories(
        states=coordinates[traj.states],
        actions=traj.actions,
        mask=traj.mask,
        last=coordinates[traj.last],
    )
    log_Z = torch.ones(2, dtype=torch.float64)
    encode = ENV.encode
    ENV.encode = lambda s: encode(s).double()  # type: ignore[method-assign]
    try:
        table = visit(dag, whole(), net(ENV.encode(coordinates)), traj, fm=name == "fm")
        of_states = name.startswith(("fl-", "modified-"))
        visited = visit_states(net, ENV, by_states, fm=name == "fm", reward_of_states=of_states)
    finally:
        ENV.encode = encode  # type: ignore[method-assign]
    for loss in LOSSES.values():
        a, _ = grid.grid_loss(name, table, traj, ENV.stop, log_Z, 0.9, loss, 50.0)
        b, _ = grid.grid_loss(name, visited, by_states, ENV.stop, log_Z, 0.9, loss, 50.0)
        assert torch.allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("name", [o for o in OBJECTIVES if o != "fm"])
def test_reused_forward_pass_agrees(name: str) -> None:
    """Training on the rollout's own forward pass = evaluating the visited states once more."""
    net = StackedMLP(seed_generators((0, 1), 0), (ENV.input_dim, 32, 32, 6))
    u = uniforms(seed_generators((0, 1), 1), (ENV.max_length, 8))
    traj = sample_states(net, ENV, u)
    assert isinstance(traj, CompiledTrajectories)
    log_Z = torch.ones(2)
    results = []
    for visited in (
        visit_states(net, ENV, traj, reward_of_states=True),
        visit_distinct(net, ENV, traj, flow=name != "tb"),
    ):
        value, logged = grid.grid_loss(
            name, visited, traj, ENV.stop, log_Z, 0.9, LOSSES["linex05"], 50.0
        )
        grads = torch.autograd.grad(value.sum(), list(net.parameters()))
        results.append((value.detach(), logged, *grads))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max()))


def test_backward_policy_is_learned(tmp_path: Path) -> None:
    train(Config(task="grid-tb", height=8, steps=30, out=tmp_path / "r"))
    final = Run.load(tmp_path / "r").final()
    last = final["net"]["layers.2.weight"]  # [S, hidden, D+1 + D + 1]
    init = StackedMLP(seed_generators((0,), 0), (16, 256, 256, 6)).layers[2].weight
    moved = (last - init).abs().amax((0, 1))
    assert (moved[:5] > 1e-4).all()  # P_F and P_B heads
    assert moved[5] == 0  # TB has no state flow
    assert final["log_Z"].abs().item() > 1.0  # its own, larger rate


def test_log_z_rate_on_bits() -> None:
    """64 addends at 2e-3: one Adam step moves log Z by 0.128."""
    parts = torch.nn.Parameter(torch.zeros(1, 64))
    optimizer = adam([{"params": [parts], "lr": BitSpec().lr_log_Z}], weight_decay=1e-5)
    parts.sum().mul(-3.7).backward()
    optimizer.step()
    assert float(parts.sum()) == pytest.approx(0.128, rel=1e-5)


def test_bits_exact_solution_for_one_mode() -> None:
    """With a factorised reward the exact policy is known: every loss vanishes on it."""
    spec = BitSpec(n_bits=8, word_bits=2, n_modes=1)
    modes = spec.modes("cpu")
    env = modes.env("slots")
    per_word = modes._table.view(4, 5, 1)[:, :4, 0]  # distance of each word at each place
    log_w = -2.0 * per_word.double()  # R = prod_i exp(log_w)
    log_z = log_w.logsumexp(1)

    class Exact:
        def __call__(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            # each free slot equally likely, then the word by its weight
            logits = (log_w - log_z.unsqueeze(1)).flatten().expand(*states.shape[:-1], -1)
            free = states == env.empty
            # FL: F(s) = R(filled) * prod_free Z_i * (number of orders left)/(L! / t!)
            t = (~free).sum(-1).double()
            flow = (free * log_z).sum(-1)
            flow = flow - torch.lgamma(torch.tensor(5.0)) + torch.lgamma(t + 1)
            return logits, flow + torch.lgamma(5 - t)

    exact = Exact()
    u = torch.rand(1, 4, 32, generator=torch.Generator().manual_seed(0))
    traj = sample(env, lambda s: exact(s)[0], u, epsilon=0.3)
    total = log_z.sum().view(1)
    for name in ("tb", "db", "stb"):
        for loss in LOSSES.values():
            _, logged = bits_loss(name, exact, env, traj, total, 1.5, loss, 50.0)
            assert logged.abs().max() < 1e-9


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "task,extra",
    [
        ("grid-tb", {"height": 8}),
        ("grid-stb", {"height": 8, "table_limit": 1}),
        ("grid-db", {"height": 8, "table_limit": 1, "reuse": True}),
        ("bits-db", {"n_bits": 16, "n_modes": 3}),
        ("bits-tb", {"n_bits": 16, "n_modes": 3, "net": "transformer"}),
    ],
)
def test_resume_is_bit_identical(task: str, extra: dict, whole_and_cut: Callable) -> None:
    config = Config(task=task, seed=(0, 1), steps=12, eval_every=3, **extra)
    whole, cut = whole_and_cut(train, config, 5)
    key = "net" if task.startswith("grid") else "policy"
    for name, value in whole[key].items():
        assert torch.equal(value, cut[key][name]), name


def test_training_learns_the_easy_grid(tmp_path: Path) -> None:
    train(
        Config(
            method="quadratic",
            task="grid-tb",
            height=8,
            reward="standard-1",
            steps=400,
            seed=(0, 1),
            out=tmp_path / "r",
        )
    )
    evaluate(EvalConfig(run=tmp_path / "r"))
    l1 = lines(tmp_path / "r")[-1]["l1_sum_exact"]
    assert max(l1) < 0.25
    rows = json.loads((tmp_path / "r" / "eval.json").read_text())["rows"]
    assert {r["metric"] for r in rows} >= {"area", "l1_final", "regions_found", "l1_sum_exact"}
    assert [r["value"] for r in rows if r["metric"] == "regions_found"] == [4.0, 4.0]


def test_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="linex1"):
        train(Config(method="linex11", out=tmp_path))
    with pytest.raises(UserError, match="grid-tb"):
        train(Config(task="grid-bt", out=tmp_path))
    with pytest.raises(UserError, match="theory"):
        train(Config(method="all", task="grid-tb", out=tmp_path))


def test_a_mode_is_found_within_the_radius() -> None:
    near = mark_modes(torch.zeros(1, 2, dtype=torch.bool), torch.tensor([[[5.0, 6.0]]]), 5)
    assert near.tolist() == [[True, False]]


def test_empirical_distance() -> None:
    target = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64)
    samples = torch.tensor([[0, 0, 1, 1], [2, 2, 2, 2]])
    assert grid.l1_mean_empirical(samples, target).tolist() == [0.0, 0.5]


def test_bit_sequences() -> None:
    bits = BitSequences(40, 4, 20, seed=3)
    blocks = {tuple(int(c) for c in b) for b in BIT_BLOCKS}
    chunks = bits.mode_bits.view(20, 5, 8)
    assert all(tuple(c.tolist()) in blocks for mode in chunks for c in mode)
    assert (bits.to_bits(bits.mode_words) == bits.mode_bits).all()
    assert (bits.log_reward(bits.mode_words) == 0).all()
    # test set: c flipped bits, c = 0..n-1, for every mode
    flipped = (bits.test_bits.view(20, 40, 40) != bits.mode_bits.unsqueeze(1)).sum(-1)
    assert (flipped == torch.arange(40)).all()
    rng = torch.Generator().manual_seed(0)
    words = torch.randint(16, (50, 10), generator=rng)
    slow = (bits.to_bits(words).unsqueeze(1) != bits.mode_bits).sum(-1)
    assert (bits.distances(words) == slow).all()
    assert torch.allclose(bits.log_reward(words), -2.0 * slow.min(-1).values)
    # empty words cost nothing
    words[:, 3:] = 16
    slow = (bits.to_bits(words[:, :3].clone()).view(50, 1, 12) != bits.mode_bits[:, :12]).sum(-1)
    assert (bits.distances(words) == slow).all()
    assert (bits.distances(bits.env().initial((2,))) == 0).all()
    # random strings are far from all modes (mean about 14.5)
    far = bits.distances(torch.randint(16, (2000, 10), generator=rng)).min(-1).values.mean()
    assert 13.5 < float(far) < 15.5
