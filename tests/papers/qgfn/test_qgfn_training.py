"""The training code: who learns from what, P_F's target under a mixture, resuming, stacking."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.gfn.exact import exact_log_flows, exact_policies, terminating_distribution
from common.gfn.sampling import Trajectories, sample, sample_from_table, uniforms
from common.gfn.strings import StringEnv
from common.run import Run
from common.stacked import seed_generators
from papers.qgfn.config import SWEEP
from papers.qgfn.eval import EvalConfig, evaluate
from papers.qgfn.learning import Tally, behaviour, distinct, learn
from papers.qgfn.method import MIXTURES
from papers.qgfn.networks import Networks
from papers.qgfn.task import (
    BitModes,
    StringTask,
    TableReward,
    bits_task,
    hamming,
    rna_task,
    table_task,
)
from papers.qgfn.train import Config, train

SMALL = {"n_bits": 16, "n_modes": 3, "hidden": 16, "batch": 4}


def small_networks(env: StringEnv, seeds: tuple[int, ...] = (0, 1), **kwargs: bool) -> Networks:
    learns = {"learns_pf": True, "learns_q": True} | kwargs
    return Networks("mlp", seeds, env, hidden=16, **learns)


def rollout(nets: Networks, env: StringEnv, mixture: str | None, p: float) -> Trajectories:
    u = uniforms(seed_generators((7, 8), 1), (env.length, 6))
    return sample(env, behaviour(nets, env, mixture, p), u)


# -- who learns from what -------------------------------------------------------------------------


def test_each_loss_reaches_its_own_network_only() -> None:
    task = bits_task(16, 4, 3)
    nets = small_networks(task.env)
    traj = rollout(nets, task.env, "p-greedy", 0.5)
    reward = task.score(traj.last)[0]
    learned = learn(
        nets,
        None,
        task.env,
        traj,
        reward=reward,
        log_reward=task.log_reward(reward, 12.0),
        log_Z=torch.zeros(2),
        n=4,
    )
    assert learned.policy_loss is not None and learned.value_loss is not None
    for loss, mine, others in (
        (learned.policy_loss, slice(0, 2), slice(2, 4)),
        (learned.value_loss, slice(2, 4), slice(0, 2)),
    ):
        grads = torch.autograd.grad(loss.sum(), list(nets.parameters()), retain_graph=True)
        assert all(bool(g[mine].any()) for g in grads)
        assert not any(bool(g[others].any()) for g in grads)


def test_residual_does_not_know_p() -> None:
    """For fixed trajectories the TB loss has no p, and equals P_F's by hand; log mu differs."""
    task = bits_task(16, 4, 3)
    env = task.env
    nets = small_networks(env)
    traj = rollout(nets, env, "p-quantile", 0.5)
    reward = task.score(traj.last)[0]
    log_reward = task.log_reward(reward, 12.0)
    log_Z = torch.tensor([3.0, -1.0])
    learned = learn(nets, None, env, traj, reward=reward, log_reward=log_reward, log_Z=log_Z, n=4)
    before = traj.states[..., :-1, :]
    logits, q, _ = nets(before)
    assert logits is not None and q is not None

    def loss(log_policy: torch.Tensor) -> torch.Tensor:
        taken = log_policy.gather(-1, traj.actions.unsqueeze(-1)).squeeze(-1).sum(-1)
        t = log_Z.unsqueeze(-1) + taken - log_reward + env.length * math.log(2)
        return t.square().mean(-1)

    assert torch.allclose(loss(torch.log_softmax(logits, -1)), learned.policy_loss, rtol=1e-5)
    mu = MIXTURES["p-quantile"](logits, q, torch.ones_like(q, dtype=torch.bool), 0.5)
    assert not torch.allclose(loss(mu), learned.policy_loss, rtol=1e-2)


def test_q_learns_the_raw_reward() -> None:
    """Not R^beta, and not its logarithm: the loss is zero for Q = R on one-letter strings."""
    env = StringEnv("prepend_append", 1, 4, lambda x: torch.zeros(x.shape[:-1]))
    nets = small_networks(env, learns_pf=False)
    table = torch.tensor([0.2, 0.5, 0.1, 2.0]).repeat(2)
    layers = list(nets.net.layers)  # type: ignore[union-attr]
    with torch.no_grad():
        layers[-1].weight.zero_()
        layers[-1].bias.copy_(table.expand(2, 1, 8))
    actions = torch.arange(8).view(1, 8, 1).expand(2, -1, -1)
    start = env.initial((2, 8))
    last = env.step(start, actions[..., 0])
    traj = Trajectories(
        torch.stack([start, last], 2), actions, torch.ones_like(actions, dtype=torch.bool), last
    )
    reward = table.expand(2, -1)
    for raw, zero in ((reward, True), (reward**3, False), (reward.log(), False)):
        learned = learn(
            nets, None, env, traj, reward=raw, log_reward=7 * raw, log_Z=torch.zeros(2), n=1
        )
        assert learned.policy_loss is None and learned.value_loss is not None
        assert bool((learned.value_loss < 1e-10).all()) == zero


def test_bootstrap_reads_the_lagged_network() -> None:
    """n = 1 against the same sum by hand, and n >= T without a lagged network."""
    task = bits_task(16, 4, 3)
    env = task.env
    nets, lagged = small_networks(env), small_networks(env, (4, 5), learns_pf=False)
    traj = rollout(nets, env, None, 0.0)
    reward = task.score(traj.last)[0]
    args = {"reward": reward, "log_reward": reward, "log_Z": torch.zeros(2)}
    learned = learn(nets, lagged, env, traj, n=1, **args)
    before = traj.states[..., :-1, :]
    q, old = nets(before)[1], lagged(before)[1]
    assert q is not None and old is not None
    values = old.gather(-1, q.argmax(-1, keepdim=True)).squeeze(-1)
    target = torch.cat([values[..., 1:], reward.unsqueeze(-1)], -1).detach()
    taken = q.gather(-1, traj.actions.unsqueeze(-1)).squeeze(-1)
    expected = torch.nn.functional.huber_loss(taken, target, reduction="none").mean((1, 2))
    assert torch.allclose(learned.value_loss, expected, rtol=1e-5)
    far = learn(nets, None, env, traj, n=env.length, **args)
    assert not torch.allclose(far.value_loss, expected, rtol=1e-2)


def test_share_of_pruned_best_actions() -> None:
    """Counted over the batch's states, repeats included."""
    task = bits_task(16, 4, 3)
    nets = small_networks(task.env)
    traj = rollout(nets, task.env, None, 0.0)
    reward = task.score(traj.last)[0]
    learned = learn(
        nets, None, task.env, traj, reward=reward, log_reward=reward, log_Z=torch.zeros(2), n=4
    )
    logits, q, _ = nets(traj.states[..., :-1, :])
    assert logits is not None and q is not None
    mu = MIXTURES["p-quantile"](logits, q, torch.ones_like(q, dtype=torch.bool), 0.6).exp()
    slow = [
        np.mean(
            [
                float(m[x.argmax()] == 0)
                for m, x in zip(a.flatten(0, 1), b.flatten(0, 1), strict=True)
            ]
        )
        for a, b in zip(mu, logits, strict=True)
    ]
    assert learned.pruned("p-quantile", 0.6).tolist() == pytest.approx(slow)
    assert 0.2 < np.mean(slow) < 1
    assert not learned.pruned("p-greedy", 0.6).any()


def test_distinct_states() -> None:
    rng = torch.Generator().manual_seed(0)
    states = torch.randint(0, 3, (3, 5, 4, 2), generator=rng)
    found, place = distinct(states)
    for s in range(3):
        assert torch.equal(found[s][place[s]], states[s])
        n = torch.unique(states[s].flatten(0, 1), dim=0).shape[0]
        assert place[s].max() == n - 1
    assert found.shape[1] < 20


# -- P_F's target ---------------------------------------------------------------------------------


def small_table(length: int = 3, n_letters: int = 2) -> StringTask:
    rewards = np.linspace(0.3, 1.2, n_letters**length)
    return table_task(rewards, n_letters, length, 2.0, lambda x: hamming(x, n_letters))


def test_exact_policy_has_no_loss_under_any_mixture() -> None:
    """Uniform P_B = 1/2 counts both of the parallel edges out of the empty string."""
    task = small_table()
    dag = task.env.dag()
    log_pf = exact_policies(dag)[0]
    assert exact_log_flows(dag)[0][dag.source] == pytest.approx(dag.log_Z)
    u = uniforms(seed_generators((0,), 1), (3, 50))
    traj = sample_from_table(dag, log_pf.exp().clamp(min=0.2).log().unsqueeze(0), u)
    taken = log_pf[traj.states[..., :-1], traj.actions].sum(-1)
    residual = dag.log_Z + taken - dag.log_reward[traj.last] + 3 * math.log(2)
    assert residual.abs().max() < 1e-6


def test_mixing_does_not_bias_the_policy() -> None:
    """Trained on a mixture with full support, P_F still matches R^beta/Z: exact L1 < 0.05."""
    task = small_table()
    env = task.env
    nets = small_networks(env)
    log_Z = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([{"params": nets.parameters()}, {"params": [log_Z], "lr": 0.05}])
    generators = seed_generators((0, 1), 1)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 400)
        optimizer.param_groups[1]["lr"] = 1e-1 * (1 - step / 400)
        u = uniforms(generators, (env.length, 16))
        traj = sample(env, behaviour(nets, env, "p-greedy", 0.4), u)
        reward = task.score(traj.last)[0]
        learned = learn(
            nets,
            None,
            env,
            traj,
            reward=reward,
            log_reward=task.log_reward(reward, 2.0),
            log_Z=log_Z,
            n=3,
        )
        optimizer.zero_grad()
        learned.total().backward()
        optimizer.step()
    dag = env.dag()
    inner = ~torch.isfinite(dag.log_reward)
    full = torch.full((2, dag.n_states, dag.n_actions), -torch.inf, dtype=torch.float64)
    mixed = full.clone()
    with torch.no_grad():
        logits, q, _ = nets(env.all_states()[inner].expand(2, -1, -1))
        assert logits is not None and q is not None
        full[:, inner] = torch.log_softmax(logits, -1).double()
        mask = torch.ones_like(q, dtype=torch.bool)
        mixed[:, inner] = MIXTURES["p-greedy"](logits, q, mask, 0.4).double()
    l1 = (terminating_distribution(dag, full) - dag.target()).abs().sum(-1)
    assert l1.max() < 0.05
    assert (log_Z - dag.log_Z).abs().max() < 0.05
    biased = (terminating_distribution(dag, mixed) - dag.target()).abs().sum(-1)
    assert biased.min() > 0.3  # what mu itself samples is another thing


# -- tasks ----------------------------------------------------------------------------------------


def levenshtein(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def test_bit_modes() -> None:
    modes = BitModes(32, 4, 16, (3, 2))
    assert len(set(modes.modes)) == 16
    rng = torch.Generator().manual_seed(0)
    objects = torch.randint(0, 16, (2, 20, 8), generator=rng)
    exact = torch.tensor(
        [[int(c, 2) for c in (m[i : i + 4] for i in range(0, 32, 4))] for m in modes.modes]
    )
    objects[0, 0] = exact[3]
    for row, flips in ((1, [0]), (2, [0, 9]), (3, [0, 9, 20]), (4, [0, 9, 20, 27])):
        bits = [int(c) for c in modes.modes[3]]
        for i in flips:
            bits[i] ^= 1
        objects[0, row] = (torch.tensor(bits).view(8, 4) * torch.tensor([8, 4, 2, 1])).sum(-1)
    text = ["".join(f"{int(w):04b}" for w in row) for row in objects[0]]
    slow = [[levenshtein(t, m) for m in modes.modes] for t in text]
    assert modes.distances(objects)[0].tolist() == slow
    assert {2, 3} <= {min(row) for row in slow}  # on the border of both radii
    reward, hits = modes.score(objects)
    assert reward[0, 0] == pytest.approx(math.e)
    assert hits.shape == (2, 20, 32) and hits[0, 0, 3] and hits[0, 0, 19]
    for i in range(20):
        assert reward[0, i] == pytest.approx(math.exp(1 - min(slow[i]) / 32))
        assert hits[0, i].tolist() == [d <= 3 for d in slow[i]] + [d <= 2 for d in slow[i]]
    # a random string lies at distance 10 of the nearest mode, its mean reward is near 2
    many = torch.randint(0, 16, (20_000, 8), generator=rng)
    assert modes.distances(many).min(-1).mean() == pytest.approx(9.99, abs=0.3)
    assert float(modes.score(many)[0].mean()) == pytest.approx(1.991, abs=0.03)


def test_pairwise_hamming() -> None:
    x = torch.randint(0, 3, (40, 5), generator=torch.Generator().manual_seed(0))
    slow = [(x[i] != x[j]).double().mean().item() for i in range(40) for j in range(i)]
    assert hamming(x, 3) == pytest.approx(np.mean(slow))


def test_table_modes_and_invalid_objects() -> None:
    values = np.arange(1.0, 401.0)
    values[5] = -10.0  # an invalid object
    reward = TableReward(values, 20, 2)
    assert reward.n_modes == 2 and reward.threshold == 399
    task = table_task(values, 20, 2, 3.0, lambda x: 0.0)
    r, hits = task.score(torch.tensor([[0, 5], [19, 19], [19, 18], [0, 0]]))
    assert r.tolist() == [-10, 400, 399, 1]
    assert hits.any(-1).tolist() == [False, True, True, False]
    log_reward = task.log_reward(r, 3.0).tolist()
    assert log_reward[0] == -75 and log_reward[1] == pytest.approx(3 * math.log(400))


def test_top_rewards_are_of_distinct_objects() -> None:
    task = small_table()
    tally = Tally(1, task, 8, torch.device("cpu"))
    objects = torch.tensor([[[1, 1, 1], [1, 1, 1], [0, 0, 0], [1, 1, 1]]])
    for step in range(2):
        reward, hits = task.score(objects)
        tally.add(objects, reward, hits, step)
    line = tally.close_window(8, 2)
    assert line["mean_reward"] == [pytest.approx((3 * 1.2 + 0.3) / 4)]
    assert line["top_reward"] == [pytest.approx((1.2 + 0.3) / 2)]


# -- runs -----------------------------------------------------------------------------------------


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "method,extra",
    [
        ("p-of-max", {}),
        ("p-of-max-n1", {"sampling_tau": 0.9, "lr_half_life": 10.0}),
        ("p-quantile", {"objective": "stb"}),
        ("tb", {}),
        ("dqn", {}),
        ("uniform", {}),
        ("p-greedy", {"net": "transformer"}),
    ],
)
def test_resume_is_bit_identical(method: str, extra: dict, whole_and_cut: Callable) -> None:
    config = Config(method=method, seed=(0, 1), steps=10, eval_every=3, **SMALL, **extra)
    whole, cut = whole_and_cut(train, config, 5)
    for part in ("nets", "lagged", "follower", "tally"):
        assert (whole[part] is None) == (cut[part] is None)
        for name, value in (whole[part] or {}).items():
            assert torch.equal(value, cut[part][name]), (part, name)


@pytest.mark.parametrize("method", ["p-quantile", "p-of-max-n3", "dqn"])
def test_stacked_seeds_equal_single_seeds(
    method: str, tmp_path: Path, trained_alike: Callable[..., None]
) -> None:
    config = Config(method=method, steps=12, eval_every=4, **SMALL)
    train(replace(config, seed=(3, 5), out=tmp_path / "both"))
    both = lines(tmp_path / "both")
    for i, seed in enumerate((3, 5)):
        alone, first = tmp_path / str(seed), tmp_path / f"{seed}-first"
        train(replace(config, seed=(seed,), out=alone))
        train(replace(config, seed=(seed,), steps=1, out=first))
        for ours, single in zip(both, lines(alone), strict=True):
            for key in {"mean_reward", "modes", "value_loss", "pruned"} & set(single):
                assert np.allclose(ours[key][i], single[key][0], rtol=1e-2), key
        stacked, single, start = (
            Run.load(folder).final()["nets"] for folder in (tmp_path / "both", alone, first)
        )  # [P_F of every seed, Q of every seed]
        n = {name: len(value) for name, value in single.items()}
        stacked = {k: v.unflatten(0, (n[k], 2))[:, i] for k, v in stacked.items()}
        trained_alike(single, stacked, start)


def test_lagged_network_starts_as_the_online_one_and_follows(tmp_path: Path) -> None:
    train(Config(method="p-of-max-n1", steps=1, out=tmp_path / "r", **SMALL))
    final = Run.load(tmp_path / "r").final()
    start = small_networks(bits_task(16, 4, 3).env, (0,), learns_pf=False).state_dict()
    for name, old in final["lagged"].items():
        online = final["nets"][name][1:]  # P_F first
        assert torch.allclose(old, 0.95 * start[name] + 0.05 * online, atol=1e-6)


def test_evaluation_of_a_sampled_and_an_enumerated_task(tmp_path: Path) -> None:
    for task in ("bits", "rna"):
        config = Config(method="p-greedy", task=task, seed=(0, 1), steps=8, eval_every=2)
        train(replace(config, length=3, out=tmp_path / task, **SMALL))
        evaluate(EvalConfig(run=tmp_path / task, samples=200))
        rows = json.loads((tmp_path / task / "eval.json").read_text())["rows"]
        names = {r["metric"] for r in rows}
        assert names >= {"mean_reward_last", "modes_found", "sweep_reward", "final_distance"}
        assert all(r["value"] == 0 for r in rows if r["metric"] == "p0_gap")
        sweeps = [r for r in rows if r["metric"] == "sweep_reward"]
        assert len(sweeps) == 2 * 3 and all(r["step"] == list(SWEEP) for r in sweeps)
        at_zero = {(r["seed"], r["value"][0]) for r in sweeps}
        assert len(at_zero) == 2  # the same policy whatever the mixture
        own = next(r["value"] for r in rows if r["metric"] == "final_reward")
        greedy = next(r for r in sweeps if r["mixture"] == "p-greedy" and r["seed"] == 0)
        assert own == pytest.approx(greedy["value"][2], rel=1e-6)  # p = 0.4


def test_exact_reward_agrees_with_samples(tmp_path: Path) -> None:
    from papers.qgfn.config import make_networks
    from papers.qgfn.eval import Policies

    config = Config(method="p-greedy", task="rna", length=3, seed=(0, 1), hidden=16)
    task = rna_task(3)
    nets = make_networks(config, task).requires_grad_(False)
    policies = Policies(task, nets, config.seed, 8.0, 20_000)
    for mixture, p in (("p-greedy", 0.4), ("p-of-max", 0.9), ("p-quantile", 0.6)):
        exact = policies.measure(mixture, p)
        sampled = policies._sampled(mixture, p, 0.0)
        assert exact["reward"] == pytest.approx(sampled["reward"], abs=0.01)
        assert exact["distance"] == pytest.approx(sampled["distance"], abs=0.02)


def test_paper_configuration_on_bits(tmp_path: Path) -> None:
    """n = 120, 60 modes, the transformer; two steps."""
    config = Config(
        n_bits=120,
        n_modes=60,
        delta=30,
        net="transformer",
        steps=2,
        eval_every=1,
        batch=2,
        beta=3.0,
        sampling_tau=0.9,
        lr_half_life=20_000,
        log_Z_half_life=50_000,
        weight_decay=1e-8,
        sweep=(0.0,),
        out=tmp_path / "r",
    )
    train(config)
    evaluate(EvalConfig(run=tmp_path / "r", samples=3))
    assert np.isfinite(lines(tmp_path / "r")[-1]["policy_loss"]).all()


def test_user_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="p-of-max"):
        train(Config(method="p-of-mx", out=tmp_path))
    with pytest.raises(UserError, match="bits"):
        train(Config(task="bit", out=tmp_path))
    for wrong in ({"p": 1.5}, {"sweep": (0.0, -0.1)}):
        with pytest.raises(UserError, match="from 0 to 1"):
            train(Config(out=tmp_path / "b", **wrong))
    with pytest.raises(UserError, match="mlp"):
        train(Config(net="cnn", out=tmp_path / "a", **SMALL))
    monkeypatch.delenv("PAPERS_DATA", raising=False)
    with pytest.raises(UserError, match="PAPERS_DATA"):
        train(Config(task="qm9str", out=tmp_path))
