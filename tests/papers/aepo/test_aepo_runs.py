"""Runs: resuming, stacked seeds, devices, what is shared, and acting afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import papers.aepo as aepo
from common.control.diffusion import noised, uniform_in_snr
from common.control.scores import normalized
from common.errors import UserError
from common.rows import Rows
from common.run import Run
from common.stacked import adam, randint, randn, seed_generators
from papers.aepo import eval as evaluation
from papers.aepo import pretrain, train
from papers.aepo.accuracy import correlation, gradient_errors, nonlinearity, sight
from papers.aepo.config import SETTINGS, Config, PriorConfig, resolve
from papers.aepo.eval import EvalConfig, empirical_w2, evaluate, gaussian_w2
from papers.aepo.exact import FiniteData, Gaussian, Quadratic
from papers.aepo.methods import METHODS
from papers.aepo.prior import (
    SCHEDULE,
    Behaviour,
    Data,
    drawn_steps,
    load_data,
    load_prior,
    variance_table,
)
from papers.aepo.rollouts import FIRST_SEED, returns
from papers.aepo.task import SETS, TASKS, Offline, bandit_data, task_of
from papers.aepo.train import (
    analytic,
    contrastive,
    energy,
    make_network,
    make_supports,
    temperatures,
)
from papers.aepo.trained import load_policy
from tests.fake_cuda import fake_cuda, same_on_both
from tests.papers import kit
from tests.papers.aepo.stand_in import Point, episodes

torch.set_num_threads(1)
CPU = torch.device("cpu")
CONTROL = "halfcheetah-replay"
SMALL: dict[str, Any] = {
    **{"steps": 12, "batch": 16, "groups": 4, "support": 3, "support_states": 10, "hidden": 12},
    **{"layers": 2, "w": (1.0, 2.0), "solver_steps": 3, "samples": 40, "episodes": 2},
}
PRIOR: dict[str, Any] = {
    **{"behaviour_steps": 10, "critic_steps": 10, "batch": 16, "support": 3, "hidden": 12},
    **{"solver_steps": 3},
}


def prior_of(root: Path, source: str, seed: tuple[int, ...] = (0, 1), **changes: Any) -> Path:
    """A finished run of pretraining where training looks for it."""
    stage = "support" if changes.get("critic") == "support" else "prior"
    ends = seed[:1] if len(seed) == 1 else (seed[0], seed[-1])
    out = root / stage / source / ("seed-" + "-".join(map(str, ends)))
    pretrain.train(PriorConfig(task=source, seed=seed, out=out, **{**PRIOR, **changes}))
    return out


def config(root: Path, method: str = "aepo", task: str = "concave", **changes: Any) -> Config:
    values = {"seed": (0, 1), **SMALL, **changes}
    return Config(method=method, task=task, out=root / "train" / task / method, **values)


def rows_of(folder: Path) -> Rows:
    evaluate(EvalConfig(run=folder))
    return Rows(json.loads((folder / "eval.json").read_text(encoding="utf-8"))["rows"])


# -- resuming, devices, seeds ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "critic"), [("8gaussians", "iql"), (CONTROL, "iql"), (CONTROL, "support")]
)
def test_killed_pretraining_ends_with_the_same_numbers(
    task: str, critic: str, small: None, tmp_path: Path, whole_and_cut: Callable[..., Any]
) -> None:
    cfg = PriorConfig(task=task, seed=(0, 1), critic=critic, **PRIOR)
    for every in (7, 14):  # in the behaviour, in the critic
        whole, cut = whole_and_cut(pretrain.train, cfg, every)
        pairs = list(zip(kit.tensors(whole), kit.tensors(cut), strict=True))
        assert len(pairs) > 20 and all(torch.equal(x, y) for x, y in pairs)
        for folder in ("whole", "cut"):
            shutil.rmtree(tmp_path / folder)


@pytest.mark.parametrize(
    ("method", "task"), [("aepo", "concave"), ("cep", CONTROL), ("iql", CONTROL)]
)
def test_a_killed_run_ends_with_the_same_numbers(
    method: str, task: str, small: None, tmp_path: Path, whole_and_cut: Callable[..., Any]
) -> None:
    prior = prior_of(tmp_path, task_of(task).source)
    cfg = config(tmp_path, method, task, prior=prior)
    whole, cut = whole_and_cut(train.train, cfg, 5)
    pairs = list(zip(kit.tensors(whole), kit.tensors(cut), strict=True))
    assert len(pairs) > 5 and all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize(
    ("method", "task"),
    [("aepo", "8gaussians"), ("cep", CONTROL), ("aepo-local", CONTROL), ("iql", CONTROL)],
)
def test_on_a_gpu_the_rows_are_the_same(
    method: str, task: str, small: None, tmp_path: Path
) -> None:
    prior = prior_of(tmp_path, task_of(task).source)
    cfg = config(tmp_path, method, task, prior=prior, steps=3)
    same_on_both(train, evaluation, cfg, tmp_path / "both")


def test_pretraining_on_a_gpu_gives_the_same_networks(small: None, tmp_path: Path) -> None:
    cfg = {**PRIOR, "task": CONTROL, "seed": (0, 1), "critic": "support", "critic_steps": 2}
    found = []
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        made = PriorConfig(**{**cfg, "out": out, "device": device})
        if device == "cuda":
            with fake_cuda():
                pretrain.train(made)
        else:
            pretrain.train(made)
        found.append(Run.load(out).final())
    for x, y in zip(*map(kit.tensors, found), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-5)


def test_a_stacked_seed_is_what_it_would_be_alone(
    tmp_path: Path, trained_alike: Callable[..., None]
) -> None:
    found = {}
    for name, seed, steps in (("both", (4, 7), 12), ("alone", (7,), 12), ("first", (7,), 4)):
        prior = prior_of(tmp_path / name, "gauss", seed)
        out = tmp_path / name / "run"
        cfg = Config(task="concave", seed=seed, out=out, prior=prior, **{**SMALL, "steps": steps})
        train.train(cfg)
        found[name] = Run.load(out).final()["net"]
    stacked = {key: value[-1:] for key, value in found["both"].items()}
    trained_alike(found["alone"], stacked, found["first"])


# -- what a run begins with ------------------------------------------------------------------------


def test_a_run_needs_its_prior(small: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pretrain --task gauss"):
        train.train(config(tmp_path))
    prior_of(tmp_path, "gauss")
    train.train(config(tmp_path))  # found beside the stage
    other = prior_of(tmp_path, "8gaussians")
    with pytest.raises(UserError, match="needed is gauss"):
        train.train(config(tmp_path, "mse", prior=other))


def test_bad_configurations_end_in_one_line(tmp_path: Path) -> None:
    for changes, words in (
        ({"method": "aep"}, "did you mean aepo"),
        ({"task": "concav"}, "did you mean concave"),
        ({"method": "iql"}, "needs states"),
        ({"task": CONTROL, "method": "exact"}, "not known"),
        ({"beta": 0.0}, "above 0"),
        ({"task": "convex", "beta": 2.0}, "smaller --beta"),
        ({"batch": 0}, "1 or more"),
        ({"task": CONTROL, "batch": 6}, "no multiple of --draws 4"),
    ):
        with pytest.raises(UserError, match=words):
            resolve(Config(**changes))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="choose iql or support"):
        pretrain.train(PriorConfig(critic="x", out=tmp_path))


def test_methods_share_behaviour_critic_and_noise(small: None, tmp_path: Path) -> None:
    prior_of(tmp_path, CONTROL)
    seen = np.random.default_rng(0).normal(size=(2, 2, 3))
    found = {}
    for method, w in (("bc", 0.0), ("aepo", 0.0), ("naive", 0.0), ("aepo", 1.0), ("naive", 1.0)):
        folder = tmp_path / str(w)
        cfg = config(
            folder, method, CONTROL, w=(w,), prior=tmp_path / "prior" / CONTROL / "seed-0-1"
        )
        train.train(cfg)
        policy = load_policy(Run.load(cfg.out), CPU)
        found[method, w] = policy.actions(seen, seed_generators((0, 1), 13))
    for method in ("aepo", "naive"):  # w = 0 is the behaviour, bit for bit
        assert np.array_equal(found[method, 0.0], found["bc", 0.0])
        assert not np.array_equal(found[method, 1.0], found["bc", 0.0])


def test_the_best_of_several_has_the_highest_q(small: None, tmp_path: Path) -> None:
    prior_of(tmp_path, CONTROL)
    cfg = config(tmp_path, "bc", CONTROL)
    train.train(cfg)
    policy = load_policy(Run.load(cfg.out), CPU)
    seen = np.random.default_rng(0).normal(size=(2, 5, 3))
    one = policy.actions(seen, seed_generators((0, 1), 13))
    best = policy.actions(seen, seed_generators((0, 1), 13), candidates=16)
    obs = torch.from_numpy(policy.prior.standardizer(seen))  # type: ignore[misc]
    q = [policy.prior.critic(obs, torch.from_numpy(x)).mean() for x in (one, best)]
    assert q[1] > q[0]


# -- the critic and the behaviour ------------------------------------------------------------------


def test_the_advantage_has_size_one_on_the_data(small: None, tmp_path: Path) -> None:
    folder = prior_of(tmp_path, CONTROL)
    prior = load_prior(folder, task_of(CONTROL), (0, 1), CPU)
    obs, action = prior.data.obs.expand(2, -1, -1), prior.data.action.expand(2, -1, -1)
    size = prior.critic(obs, action).abs().mean(1)
    torch.testing.assert_close(size, torch.ones(2), rtol=0.1, atol=0)


def test_rewards_are_scaled_to_one_per_step_between_best_and_worst(small: None) -> None:
    _, table, _ = load_data(task_of(CONTROL), (0,), CPU)
    assert table is not None
    made = episodes()
    totals = np.array([e.rewards.sum() for e in made])
    expected = made[0].rewards[0] / (totals.max() - totals.min()) * len(made[0])
    assert table.reward[0].item() == pytest.approx(expected, rel=1e-5)
    assert table.terminated.sum() == 3  # true ends alone; time limits bootstrap


def test_mazes_pay_minus_one_until_the_goal(small: None) -> None:
    _, table, _ = load_data(task_of("antmaze-umaze-d4rl"), (0,), CPU)
    assert table is not None and table.obs.shape[1] == 4
    assert table.reward[0].item() == pytest.approx(episodes(4)[0].rewards[0] - 1, rel=1e-5)


def gaussian_behaviour() -> tuple[Behaviour, Data]:
    """A network that says what the exact one would, and data."""
    action, labels = bandit_data(task_of("concave"), (0,), 20_000)
    data = Data(action[..., :0], action, labels, None)
    behaviour = Behaviour(seed_generators((0,), 1), 0, 2, 8)
    mu = Gaussian()

    class Exact(torch.nn.Module):
        def forward(self, a: Tensor, n: Any, obs: Tensor) -> Tensor:
            alpha, sigma = SCHEDULE.rates(n, a)
            return (mu.epsilon(SCHEDULE, a, n) - sigma * a) / alpha

    behaviour.net = Exact()  # type: ignore[assignment]
    return behaviour, data


def test_the_table_of_variances_of_a_gaussian() -> None:
    behaviour, data = gaussian_behaviour()
    found, by_norm = variance_table(behaviour, data, seed_generators((0,), 5))
    exact = [Gaussian().posterior(SCHEDULE, torch.zeros(1), n)[1].item() for n in range(1000)]
    np.testing.assert_allclose(found[0].numpy(), exact, rtol=0.12, atol=2e-4)
    assert found.max() <= data.variance.max() + 1e-6
    wrong = np.abs(by_norm[0].numpy() - exact)[900:].max()
    assert wrong > 0.1  # Eq. 4 from as many draws


def test_the_loss_of_the_velocity_is_that_of_the_noise_over_alpha_squared() -> None:
    behaviour = Behaviour(seed_generators((0, 1), 1), 3, 2, 8)
    drawing = seed_generators((0, 1), 2)
    clean, noise, obs = (randn(drawing, 6, k) for k in (2, 2, 3))
    n = torch.full((2, 6), 400)
    epsilon = behaviour.epsilon(noised(SCHEDULE, clean, noise, n), n, obs)
    alpha, _ = SCHEDULE.rates(400, clean)
    expected = (epsilon - noise).square().mean((1, 2)) / float(alpha) ** 2
    torch.testing.assert_close(behaviour.loss(clean, noise, n, obs), expected, rtol=1e-4, atol=0)


# -- guidance --------------------------------------------------------------------------------------


def test_the_targets_of_a_gaussian_are_the_known_energies(tmp_path: Path) -> None:
    folder = prior_of(tmp_path, "gauss", (0,))
    prior = load_prior(folder, task_of("concave"), (0,), CPU)
    prior.behaviour, _ = gaussian_behaviour()
    exact = [Gaussian().posterior(SCHEDULE, torch.zeros(1), n)[1].item() for n in range(1000)]
    prior.variance = torch.tensor([exact])
    n = torch.tensor([[30, 300, 600]])
    a = torch.tensor([[[0.2, 0.1], [0.5, -0.3], [0.1, 0.9]]])
    for kind, name in (("analytic", "analytic"), ("local", "analytic"), ("mean", "mean")):
        found = analytic(kind, prior, a[..., :0], a, n, 2.0)  # type: ignore[arg-type]
        truth = Gaussian().energy(SCHEDULE, Quadratic(), 2.0, name)
        expected = torch.stack([truth(a[:, i : i + 1], int(n[0, i]))[0, 0] for i in range(3)])
        torch.testing.assert_close(found[0], expected, rtol=2e-2, atol=2e-2)


def test_contrastive_estimation_learns_the_energy_of_finite_data(tmp_path: Path) -> None:
    """Its gradient comes near the brute-force one; an untrained network's does not."""
    folder = prior_of(tmp_path, "gauss", (0,), behaviour_steps=1)
    cfg = Config(method="cep", task="concave", seed=(0,), hidden=32, layers=2, beta=1.0)
    _, setting = resolve(cfg)
    prior = load_prior(folder, task_of("concave"), (0,), CPU)
    net = make_network("contrast", prior, (0,), setting)
    supports = make_supports(prior, setting, seed_generators((0,), 4))
    optimizer = adam([{"params": list(net.parameters())}], lr=3e-3)
    drawing = seed_generators((0,), 3)
    truth = Gaussian().energy(SCHEDULE, prior.critic.q, 1.0)  # type: ignore[attr-defined]
    a = torch.linspace(-1, 1, 9).view(1, 9, 1).repeat(1, 1, 2)

    def error() -> float:
        with torch.no_grad():
            found = net(a, 200, a[..., :0]) - truth(a, 200)
        return float(found.std())

    before = error()
    for _ in range(250):
        pretrain.descend(contrastive(net, prior, supports, drawing, setting), optimizer)
    assert error() < 0.3 * before


def test_supports_are_samples_of_the_behaviour(small: None, tmp_path: Path) -> None:
    prior = load_prior(prior_of(tmp_path, CONTROL), task_of(CONTROL), (0, 1), CPU)
    _, setting = resolve(config(tmp_path, "cep", CONTROL))
    found = make_supports(prior, setting, seed_generators((0, 1), 4))
    assert found.action.shape == (2, 10, 3, 2) and found.q.shape == (2, 10, 3)
    assert found.action.abs().max() <= 1
    again = prior.critic(found.obs, found.action[:, :, 1])
    torch.testing.assert_close(again, found.q[:, :, 1])
    plain = prior.drawn(found.obs, seed_generators((0, 1), 4), 3, at_once=7)
    assert plain.shape == (2, 10, 2)


def test_regressions_differ_in_their_target_alone(tmp_path: Path) -> None:
    prior = load_prior(prior_of(tmp_path, "gauss"), task_of("concave"), (0, 1), CPU)
    _, setting = resolve(config(tmp_path))
    losses = {}
    for learns in ("analytic", "local", "mean", "clean"):
        net = make_network("analytic", prior, (0, 1), setting)
        drawn = seed_generators((0, 1), 3)
        losses[learns] = energy(learns, net, prior, drawn, setting)  # type: ignore[arg-type]
        assert losses[learns].shape == (2,)
    assert len({round(float(x[0].detach()), 6) for x in losses.values()}) == 4


def test_a_clone_is_weighted_by_nothing_and_has_one_temperature(
    small: None, tmp_path: Path
) -> None:
    """It tells what acting by the mean gains from what Q adds to it."""
    prior = load_prior(prior_of(tmp_path, CONTROL), task_of(CONTROL), (0, 1), CPU)
    _, setting = resolve(config(tmp_path, "bc-mean", CONTROL))
    net = make_network("clone", prior, (0, 1), setting)
    drawn = seed_generators((0, 1), 3)
    factors = temperatures("clone", setting.w)
    found = train.regression(net, prior, drawn, setting, factors)  # type: ignore[arg-type]
    obs, action = prior.data.sample(seed_generators((0, 1), 3), setting.batch)
    torch.testing.assert_close(found, -net.log_prob(obs, action).mean(1))  # type: ignore[operator]
    assert found.shape == (2,) and temperatures("policy", (0.0, 2.0)) == (2.0,)


def test_the_value_of_actions_does_not_depend_on_how_many_are_asked_at_once(
    small: None, tmp_path: Path
) -> None:
    """All support actions of published data in one call would not fit a GPU."""
    prior = load_prior(prior_of(tmp_path, CONTROL), task_of(CONTROL), (0, 1), CPU)
    obs, action = torch.randn(2, 5, 3), torch.rand(2, 5, 4, 2)
    whole = prior.values(obs, action)
    torch.testing.assert_close(prior.values(obs, action, at_once=17), whole)
    torch.testing.assert_close(prior.critic(obs, action[:, :, 2]), whole[:, :, 2])
    assert prior.values(obs[:1], action).shape == (2, 5, 4)


def test_the_variance_of_eq_4_is_a_form_of_its_own(tmp_path: Path) -> None:
    folder = prior_of(tmp_path, "gauss")
    tables = [
        load_prior(folder, task_of("concave"), (0, 1), CPU, by_norm).variance
        for by_norm in (False, True)
    ]
    assert not torch.equal(*tables)
    for method, expected in (("aepo", tables[0]), ("aepo-eq4", tables[1])):
        cfg = config(tmp_path, method)
        train.train(cfg)
        assert torch.equal(load_policy(Run.load(cfg.out), CPU).prior.variance, expected)


def test_steps_that_energies_are_trained_at_are_those_that_the_solver_asks_at() -> None:
    """Uniform steps see a tenth of their draws where a narrow behaviour is decided."""
    found = drawn_steps(seed_generators((0, 1), 3), 20_000, "snr")
    grid = torch.tensor(uniform_in_snr(SCHEDULE, 100))
    assert found.shape == (2, 20_000) and found.min() == 0 and found.max() == 999
    for n in (50, 100, 400):
        share = (grid <= n).double().mean()
        assert (found <= n).double().mean().item() == pytest.approx(share.item(), abs=0.02)
    plain = drawn_steps(seed_generators((0, 1), 3), 20_000, "uniform")
    assert (plain <= 100).double().mean().item() == pytest.approx(0.1, abs=0.01)


def test_q_of_the_predicted_action_is_the_energy_without_variance(
    small: None, tmp_path: Path
) -> None:
    prior_of(tmp_path, CONTROL)
    policy = policy_of(tmp_path, "direct", CONTROL)
    seen = sight(policy)
    n = torch.full(seen.clean.shape[:2], 100)
    target = analytic("mean", policy.prior, seen.obs, seen.clean, n, policy.setting.beta)
    torch.testing.assert_close(policy.energy(seen.clean, 100, seen.obs), target)
    near = seen.clean + 1e-3
    slope = (policy.gradient(seen.clean, 100, seen.obs) * 1e-3).sum(-1)
    change = policy.energy(near, 100, seen.obs) - policy.energy(seen.clean, 100, seen.obs)
    torch.testing.assert_close(change, slope, rtol=0.1, atol=2e-3)


# -- errors of the energy --------------------------------------------------------------------------


def policy_of(root: Path, method: str, task: str, **changes: Any) -> Any:
    cfg = config(root, method, task, **{"steps": 2, **changes})
    train.train(cfg)
    return load_policy(Run.load(cfg.out), CPU)


def test_the_energy_of_control_is_the_sum_over_the_behaviours_actions(
    small: None, tmp_path: Path
) -> None:
    prior_of(tmp_path, CONTROL)
    policy = policy_of(tmp_path, "aepo", CONTROL)
    seen = sight(policy)
    assert seen.obs.shape == (2, 3 * 2, 3) and seen.clean.shape == (2, 3 * 2, 2)
    n, found = 400, seen.energy(seen.clean, 400)
    generators = seed_generators((0, 1), 9)
    index = randint(generators, policy.prior.data.obs.shape[1], 3)
    states = policy.prior.data.picked(index)[0].repeat_interleave(6 + 2, 1)
    drawn = policy.prior.drawn(states, generators, policy.setting.solver_steps)
    q = policy.prior.critic(states, drawn)
    own = slice(8, 14)  # of the second state
    truth = FiniteData(drawn[:, own], q[:, own])
    expected = truth.energy(SCHEDULE, seen.clean[:, 2:4], n, policy.setting.beta)
    torch.testing.assert_close(found[:, 2:4], expected)
    torch.testing.assert_close(seen.clean[:, 2:4], drawn[:, 14:16])


def test_a_network_that_is_its_target_fits_and_one_that_is_the_truth_has_no_error(
    small: None, tmp_path: Path
) -> None:
    prior_of(tmp_path, CONTROL)
    policy = policy_of(tmp_path, "aepo", CONTROL)
    policy.energy = lambda a, n, obs: (
        analytic("analytic", policy.prior, obs, a, torch.full(a.shape[:2], n), policy.setting.beta)
        + 7 * obs.sum(-1)
    )  # what the state adds is free
    policy.gradient = lambda a, n, obs: torch.zeros_like(a)
    np.testing.assert_allclose(gradient_errors(policy)["fit"], 1.0, atol=1e-3)
    np.testing.assert_allclose(gradient_errors(policy)["gradient_error"], 1.0)
    policy.energy = lambda a, n, obs: obs.sum(-1)
    np.testing.assert_allclose(gradient_errors(policy)["fit"], 0.0, atol=1e-3)
    truth = sight(policy).energy
    policy.energy = lambda a, n, obs: truth(a, n)
    del policy.gradient
    found = gradient_errors(policy)
    np.testing.assert_allclose(found["gradient_error"], 0.0, atol=1e-3)
    assert found["gradient_cosine"].min() > 0.9  # where one action has all the weight both are 0


@pytest.mark.parametrize(("task", "sign"), [("concave", 1.0), ("convex", -1.0)])
def test_kappa_of_a_quadratic_is_beta_h_v(task: str, sign: float, tmp_path: Path) -> None:
    prior_of(tmp_path, "gauss")
    policy = policy_of(tmp_path, "aepo", task, beta=0.4)
    policy.prior.behaviour, data = gaussian_behaviour()
    exact = [Gaussian().posterior(SCHEDULE, torch.zeros(1), n)[1].item() for n in range(1000)]
    policy.prior.variance = torch.tensor([exact, exact])
    found = nonlinearity(policy)
    np.testing.assert_allclose(found["kappa"], sign * 0.4 * 2.0 * exact[800], rtol=0.05)
    assert (found["term"] > 0).all()


def test_a_correlation_within_groups_forgets_the_groups() -> None:
    x = torch.tensor([[1.0, 2.0, 11.0, 12.0]])
    torch.testing.assert_close(correlation(x, x - 50, 2), torch.ones(1))
    torch.testing.assert_close(
        correlation(x, torch.tensor([[2.0, 1.0, 60.0, 59.0]]), 2), -torch.ones(1)
    )


# -- evaluation ------------------------------------------------------------------------------------


def test_distances() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(4_000, 2, generator=rng)
    x = (x - x.mean(0)) / x.std(0)
    assert gaussian_w2(0.5 * x + 0.3, 0.3, 0.5) < 0.02
    assert gaussian_w2(0.5 * x + 1.3, 0.3, 0.5) == pytest.approx(2**0.5, abs=0.02)
    few = x[:50]
    assert empirical_w2(few, few[torch.randperm(50, generator=rng)]) == pytest.approx(0, abs=1e-6)
    assert empirical_w2(few, few + torch.tensor([3.0, 4.0])) == pytest.approx(5.0, abs=1e-6)


def test_samples_that_diverge_have_a_finite_distance() -> None:
    gone = torch.full((9, 2), float("nan"))
    gone[3:] = float("inf")
    assert gaussian_w2(gone, 0.0, 0.5) == pytest.approx(2**0.5 * 1e3, rel=1e-3)
    assert 1e3 < empirical_w2(gone, torch.zeros(9, 2)) < 2e3


def test_guidance_by_q_of_the_noisy_action_diverges_on_a_convex_q(tmp_path: Path) -> None:
    prior_of(tmp_path, "gauss")
    cfg = config(tmp_path, "naive", "convex", beta=1.0)
    train.train(cfg)
    assert rows_of(cfg.out).of(metric="w2").values().min() > 2


@pytest.mark.parametrize("name", SETS)
def test_sets_have_energies_between_nought_and_a_few(name: str) -> None:
    action, energies = bandit_data(TASKS[name], (0, 1), 500)
    assert action.shape == (2, 500, 2) and energies.shape == (2, 500)
    assert 0 <= energies.min() and 0.6 < energies.max() < 6
    assert not torch.equal(action[0], action[1])


def test_the_middle_ring_has_the_most_energy() -> None:
    action, energies = bandit_data(TASKS["rings"], (0,), 2_000)
    best = action[0][energies[0] == 1.0].norm(dim=-1)
    assert best.mean().item() == pytest.approx(1.5, abs=0.1)


def test_returns_in_lock_step_are_those_of_single_episodes() -> None:
    source = Offline([], Point, 4, 0.0, 1.0)

    def policy(seen: np.ndarray, running: np.ndarray) -> np.ndarray:
        return np.stack([-np.sign(seen[..., 0]), 0 * seen[..., 0]], -1).astype(np.float32)

    found = returns(source, policy, 2, 3)
    assert np.array_equal(found[0], found[1])  # the same starts in both lanes
    env = Point()
    seen, _ = env.reset(seed=FIRST_SEED + 2)
    total = 0.0
    for _ in range(4):
        seen, reward, *_ = env.step(0.5 * np.array([-np.sign(seen[0]), 0.0]))
        total += reward
    assert found[0, 2] == pytest.approx(total, rel=1e-5)


def test_scores_are_labelled_by_guidance_scale(small: None, tmp_path: Path) -> None:
    prior_of(tmp_path, CONTROL)
    for method in ("aepo", "iql", "bc"):
        cfg = config(tmp_path, method, CONTROL)
        train.train(cfg)
        rows = rows_of(cfg.out).of(metric="score")
        assert rows.unique("w") == ([1.0] if method == "bc" else [1.0, 2.0])
        totals = rows_of(cfg.out).of(metric="return", w=1.0).values()
        expected = normalized(totals, -9.0, 1.0)
        np.testing.assert_allclose(rows.of(w=1.0).values(), expected)


def test_the_trained_policy_acts(small: None, tmp_path: Path) -> None:
    prior_of(tmp_path, CONTROL)
    cfg = config(tmp_path, "aepo", CONTROL)
    train.train(cfg)
    actor = aepo.load(cfg.out, seed=1, w=2.0)
    found = actor.act(np.zeros((4, 3)))
    assert found.shape == (4, 2) and np.abs(found).max() <= 1
    with pytest.raises(UserError, match=r"\[n, 3\]"):
        actor.act(np.zeros(5))
    with pytest.raises(UserError, match="evaluated at"):
        aepo.load(cfg.out, w=9.0)
    with pytest.raises(UserError, match="not 5"):
        aepo.load(cfg.out, seed=5)


def test_every_method_says_what_it_is() -> None:
    for method in METHODS.values():
        alone = ("policy", "clone", "nothing")
        assert (method.acts == "network") == (method.learns not in alone)


def test_temperatures_in_control_are_the_methods_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tuning chooses is put into methods.py, and nowhere else."""
    monkeypatch.setitem(vars(METHODS["aepo"]), "beta", 0.5)
    for changes, beta in (
        ({"task": CONTROL}, 0.5),
        ({"task": CONTROL, "method": "cep"}, 3.0),
        ({"task": CONTROL, "beta": 2.0}, 2.0),
        ({"task": "8gaussians"}, 3.0),
        ({"task": "concave"}, 1.0),
    ):
        assert resolve(Config(**changes))[1].beta == beta  # type: ignore[arg-type]


def test_published_data_are_scored_at_every_scale_that_the_tuning_may_choose() -> None:
    for kind in ("d4rl", "maze"):
        assert set(SETTINGS["control"].w) <= set(SETTINGS[kind].w)
