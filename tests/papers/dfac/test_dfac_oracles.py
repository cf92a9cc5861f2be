"""DFAC against closed forms, enumeration, and its own special cases."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from common.marl.matrix_games import GAMES
from common.marl.mixers import QMix, QPlex
from common.stacked import rand, seed_generators
from papers.dfac import digm
from papers.dfac.baselines import td_loss
from papers.dfac.games import exact_quantiles, fit
from papers.dfac.learner import make_net
from papers.dfac.method import (
    DFACConfig,
    QuantileHead,
    QuantileNet,
    crossing,
    dfac_loss,
    huber,
    mean_shape,
    midpoints,
    per_quantile,
    quantile_huber,
)
from papers.dfac.method_c51 import (
    CategoricalNet,
    c51_loss,
    convolve,
    joint_masses,
    project,
    quantiles,
)
from papers.dfac.networks import Batch, Psi, Sizes, Stack
from papers.dfac.optimum import least_loss

torch.set_num_threads(1)
SIZES = Sizes(n_agents=3, n_in=5, n_actions=4, state_dim=6, hidden=8, embed=8, hypernet=8)
S, B, T, N, A = 2, 3, 2, 3, 4


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw_from(seed: int):
    generators = seed_generators(range(S), seed)
    return lambda *shape: rand(generators, *shape)


def batch(seed: int = 0) -> Batch:
    """Random episodes; the last step of the first one is padding, some actions are not there."""
    avail = draws(S, B, T + 1, N, A, seed=seed + 1) > -1
    avail[..., 0] = True
    filled = torch.ones(S, B, T)
    filled[:, 0, -1] = 0
    return Batch(
        inputs=draws(S, B, T + 1, N, 5, seed=seed),
        state=draws(S, B, T + 1, 6, seed=seed + 2),
        avail=avail,
        actions=torch.zeros(S, B, T, N, dtype=torch.int64),
        reward=draws(S, B, T, seed=seed + 3),
        terminated=torch.tensor([0.0, 1.0]).expand(S, B, T).clone(),
        filled=filled,
    )


def net_of(name: str, sizes: Sizes = SIZES):
    return make_net(name, seed_generators(range(S), 0), sizes)


# ------------------------------------------------------------------ the loss


def test_quantile_huber_by_hand() -> None:
    z, tau = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.1, 0.5, 0.9])
    y = torch.tensor([0.5, 2.5])
    matrix = [
        [quantile_huber(z[a : a + 1], tau[a : a + 1], y[b : b + 1]).item() for b in range(2)]
        for a in range(3)
    ]
    np.testing.assert_allclose(matrix, [[0.0125, 0.2], [0.0625, 0.5], [0.2, 0.0125]], rtol=1e-5)
    assert quantile_huber(z, tau, y).item() == pytest.approx(0.49375)
    # y = theta counts as below it
    zero = quantile_huber(torch.zeros(1), torch.tensor([0.2]), torch.zeros(1))
    assert zero.item() == 0
    assert huber(torch.tensor([0.5, -3.0]), 1.0).tolist() == [0.125, 2.5]
    # kappa -> 0: the pinball loss
    pinball = quantile_huber(z, tau, y, kappa=1e-6)
    exact = sum(
        np.mean([(t - (b <= a)) * (b - a) for b in (0.5, 2.5)])
        for a, t in zip((0.0, 1.0, 3.0), (0.1, 0.5, 0.9), strict=True)
    )
    assert pinball.item() == pytest.approx(exact, rel=1e-4)


def expectile_like(tau: float, mean: float, std: float) -> float:
    """Where the quantile Huber loss with kappa = 1 is least for N(mean, std^2), by bisection."""
    y = scipy.stats.norm(mean, std).ppf((np.arange(20_000) + 0.5) / 20_000)
    low, high = mean - 10 * std, mean + 10 * std
    for _ in range(60):
        theta = (low + high) / 2
        u = y - theta
        slope = (np.abs(tau - (u <= 0)) * np.clip(u, -1, 1)).mean()
        low, high = (theta, high) if slope > 0 else (low, theta)
    return low


def test_huber_quantiles_are_none() -> None:
    """At kappa = 1 an IQN that is fitted to N(2, 3^2) is narrower than the law."""
    generators = seed_generators((0,), 0)
    head = QuantileHead(generators, 32, 1, 64)
    h = torch.ones(1, 1, 1, 1, 32)
    y = scipy.stats.norm(2, 3).ppf((np.arange(200) + 0.5) / 200).astype(np.float32)
    target = torch.from_numpy(y)
    optimizer = torch.optim.Adam(head.parameters(), 5e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 500)
    none = torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    for _ in range(500):
        tau = rand(generators, 1, 1, 1, 64)
        theta = head.taken(h, head.embed(tau), none)
        loss = quantile_huber(theta, tau, target).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    levels = torch.tensor([0.1, 0.5, 0.9]).view(1, 1, 1, 1, 3)
    found = head.taken(h, head.embed(levels), none).detach().flatten().numpy()
    expected = [expectile_like(t, 2, 3) for t in (0.1, 0.5, 0.9)]
    np.testing.assert_allclose(expected, [-1.482, 2, 5.482], atol=2e-3)
    np.testing.assert_allclose(found, expected, atol=0.15)
    assert abs(found[0] - scipy.stats.norm(2, 3).ppf(0.1)) > 0.2  # not the quantile


def test_least_losses_of_the_two_step_game() -> None:
    game = GAMES["dfac_m"]()
    exact = exact_quantiles(game, 2)
    of = game.means[2], game.stds[2]
    dmix = fit(least_loss(*of, free_mean=True)[None], exact)
    np.testing.assert_allclose(dmix.mean[0], [0, 1, 1, 8], atol=0.02)
    np.testing.assert_allclose(dmix.w1[0], [0.18, 0.08, 0.08, 0.37], atol=0.01)
    np.testing.assert_allclose(dmix.std[0], [0.28, 0.91, 0.91, 1.54], atol=0.02)
    sharp = fit(least_loss(*of, free_mean=True, kappa=0.05)[None], exact)
    np.testing.assert_allclose(sharp.std[0], [0.43, 1.09, 1.09, 1.76], atol=0.02)
    # a sum, by squares: [[-1.5, 2.5], [2.5, 6.5]]; the quantile loss is robust
    ddn = fit(least_loss(*of, free_mean=False)[None], exact)
    np.testing.assert_allclose(ddn.mean[0], [-0.85, 2.5, 2.5, 5.84], atol=0.02)
    assert ddn.w1.mean() == pytest.approx(1.5, abs=0.01)
    points = fit(np.repeat(exact.mean(-1, keepdims=True), 64, -1)[None], exact)
    assert points.w1.mean() == pytest.approx(0.89, abs=0.01)


def test_crossing_is_the_share_of_falling_neighbours() -> None:
    z = torch.tensor([[0.0, 1, 0.5, 0.5, 2], [0, 1, 2, 3, 4]])
    assert crossing(z).tolist() == [0.25, 0]
    law = fit(np.array([[[3.0, 1.0, 2.0]]]), np.array([[1.0, 2.0, 3.0]]))
    assert law.w1.item() == 0 and law.crossing.item() == 0.5  # the law of Z(U) is the exact one


# ------------------------------------------------------------------ quantile functions


def test_shortcuts_of_the_head_are_the_table_of_all_actions() -> None:
    head = QuantileHead(seed_generators(range(S), 0), 8, A, 16)
    h, actions = draws(S, B, T, N, 8), torch.randint(A, (S, B, T, N))
    for agents in (1, N):  # the same omega for all agents, and each its own
        omega = draw_from(3)(B, T, agents, 5)
        phi = head.embed(omega)
        table = head(h, phi)
        assert table.shape == (S, B, T, N, A, 5)
        torch.testing.assert_close(head.mean(h, phi), table.mean(-1))
        index = actions[..., None, None].expand(*actions.shape, 1, 5)
        torch.testing.assert_close(head.taken(h, phi, actions), table.gather(-2, index).squeeze(-2))
    # by the definition: z = W2 (h * relu(W cos(pi j omega) + b)) + b2
    phi0 = torch.relu(
        torch.cos(math.pi * torch.arange(16) * omega[0, 1, 1, 2, 3]) @ head.embedding.weight[0]
        + head.embedding.bias[0, 0]
    )
    z = (h[0, 1, 1, 2] * phi0) @ head.head.weight[0] + head.head.bias[0, 0]
    torch.testing.assert_close(z, table[0, 1, 1, 2, :, 3])


def test_midpoints_give_means_and_cvars() -> None:
    normal = scipy.stats.norm()
    quarter = normal.ppf(midpoints(4_000, high=0.25).double().numpy()).mean()
    assert quarter == pytest.approx(-normal.pdf(normal.ppf(0.25)) / 0.25, abs=1e-3)
    assert midpoints(4).tolist() == [0.125, 0.375, 0.625, 0.875]


# ------------------------------------------------------------------ factorisation


def psi_of(mean: str, seeds: int = 1, seed: int = 0) -> Psi:
    generators = [torch.Generator().manual_seed(seed + s) for s in range(seeds)]
    return Psi(mean, generators, SIZES)  # type: ignore[arg-type]


def test_a_stack_of_mixers_is_each_by_itself() -> None:
    q, state = draws(2, 5, N), draws(2, 5, 6, seed=1)
    actions = torch.randint(A, (2, 5, N))
    best = q + draws(2, 5, N, seed=2).abs()
    both = psi_of("qmix", 2)(q, best, actions, state)[0]
    alone = QMix(N, 6, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(both[1], alone(q[1], state[1]))
    one = Psi("qmix", [torch.Generator().manual_seed(1)], SIZES)
    torch.testing.assert_close(one(q[1:], best[1:], actions[1:], state[1:])[0][0], both[1])
    value, penalty = psi_of("qplex", 2)(q, best, actions, state)
    plex = QPlex(
        *(N, 6, A), transform="hypernet", embed=8, hypernet=8,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    torch.testing.assert_close(value[1], plex(q[1], best[1], actions[1], state[1]))
    assert penalty.tolist() == [0, 0]
    names = {name for name, _ in Stack([alone, alone]).named_parameters()}
    assert names == {f"weights.{n.replace('.', '/')}" for n, _ in alone.named_parameters()}


@pytest.mark.parametrize("mean", ["sum", "qmix", "qplex"])
def test_the_mean_is_psi_and_the_shape_a_sum(mean: str) -> None:
    """Theorem 2: E[Z_jt] = Psi(Q), and all that is left is sum_i (Z_i - Q_i)."""
    z, state = draws(1, 7, N, 5).double(), draws(1, 7, 6, seed=1).double()
    actions, best = torch.randint(A, (1, 7, N)), z.mean(-1) + 0.3
    psi = psi_of(mean).double()
    joint = mean_shape(z, lambda q: psi(q, best, actions, state)[0])
    value = psi(z.mean(-1), best, actions, state)[0]
    torch.testing.assert_close(joint.mean(-1), value)
    shape = joint - value.unsqueeze(-1)
    torch.testing.assert_close(shape, (z - z.mean(-1, keepdim=True)).sum(-2))
    if mean == "sum":
        torch.testing.assert_close(joint, z.sum(-2))  # DDN
    if mean == "qmix":
        naive = per_quantile(z, lambda q: psi(q, best, actions, state)[0])
        at_2 = psi(z[..., 2], best, actions, state)[0]
        torch.testing.assert_close(naive[..., 2], at_2)
        assert (naive.mean(-1) - value).abs().max() > 1e-3  # E[Psi(Z)] is not Psi(E[Z])


def test_utilities_of_shared_fractions_are_comonotone() -> None:
    """Theorem 3: U(0, 1) + U(0, 2) is U(0, 3) with shared omega; independent ones vary less."""
    omega = rand(seed_generators((0,), 0), 200_000, 1)
    shared = torch.cat([omega, 2 * omega], -1).unsqueeze(-1)[..., 0]
    joint = mean_shape(shared.transpose(1, 2), lambda q: q.sum(-1))
    assert joint.var().item() == pytest.approx(9 / 12, rel=0.01)
    own = rand(seed_generators((1,), 0), 200_000, 2) * torch.tensor([1.0, 2.0])
    assert own.sum(-1).var().item() == pytest.approx(5 / 12, rel=0.01)
    # what the networks draw: one for all agents of a moment, but each its own in DIQL
    for name, agents in (("dmix", 1), ("ddn", 1), ("diql", N)):
        net = net_of(name)
        drawn = net.draws(draws(S, B, T, N, 8), 4, draw_from(1))
        assert drawn.shape == (S, B, T, agents, 4)
        flat = drawn.flatten(1)
        assert len(flat.unique()) == flat.numel()  # new ones for every moment


def test_theorem_1_has_a_counterexample() -> None:
    """Psi = -exp(-(z1 + z2)): b (1.2 +- 2) is better than a (1) locally, and worse jointly."""
    outcomes = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([-0.8, 3.2])}

    def psi(q: Tensor) -> Tensor:
        return -torch.exp(-q.sum(-1))

    def joint(action: str, factorise) -> float:
        z = torch.stack([outcomes[action], torch.zeros(2)])  # the other agent is fixed at 0
        return factorise(z, psi).mean(-1).item()

    assert outcomes["b"].mean() > outcomes["a"].mean()
    assert joint("a", per_quantile) == pytest.approx(-0.368, abs=1e-3)
    assert joint("b", per_quantile) == pytest.approx(-1.133, abs=1e-3)
    assert joint("b", mean_shape) > joint("a", mean_shape)


@pytest.mark.parametrize("name", ["dmix", "ddn", "dplex", "dmix-c51"])
def test_digm_holds_for_random_networks(name: str) -> None:
    found = digm.check(name, 0, 60)
    assert not found.violated.any() and found.mean_gap.max() < 1e-6
    if name == "ddn":  # the CVaR of comonotone sums adds up, too
        assert not found.violated_cvar.any()
    if name in ("dmix", "dplex"):
        assert found.violated_cvar.any()


def test_digm_fails_quantile_by_quantile() -> None:
    found = digm.check("naive", 0, 60)
    assert 0.05 < found.violated.mean() < 0.5 and found.mean_gap.max() > 0.1


def test_violations_are_found_where_they_are() -> None:
    local = torch.zeros(1, digm.AGENTS, digm.ACTIONS)
    local[..., 2] = 1.0  # everybody's best action is 2
    joint = torch.zeros(1, digm.ACTIONS**digm.AGENTS)
    cell = list(itertools.product(range(4), repeat=3)).index((2, 2, 2))
    joint[0, cell] = 5.0
    assert not digm._violated(joint, local).any()
    joint[0, cell + 1] = 6.0
    assert digm._violated(joint, local).all()


# ------------------------------------------------------------------ whole losses


def test_one_agent_is_an_implicit_quantile_network() -> None:
    """DDN with one agent: the loss written out for IQN, padding and last steps included."""
    sizes = Sizes(1, 5, A, 6, hidden=8)
    net, target = (make_net("ddn", seed_generators(range(S), i), sizes) for i in (0, 1))
    full = batch()
    one = Batch(
        full.inputs[:, :, :, :1], full.state, full.avail[:, :, :, :1], full.actions[..., :1],
        full.reward, full.terminated, full.filled,
    )  # fmt: skip
    cfg = DFACConfig(gamma=0.9, samples=4, target_samples=3)
    found, _ = dfac_loss(net, target, one, draw_from(5), cfg)
    draw = draw_from(5)
    tau, omega = draw(B, T, 1, 4), draw(B, T, 1, 3)
    z = net.head(net.trunk(one.inputs)[:, :, :-1], net.head.embed(tau))
    h = target.trunk(one.inputs)[:, :, 1:]
    after = target.head(h, target.head.embed(omega))
    for s in range(S):
        total = 0.0
        for b, t in itertools.product(range(B), range(T)):
            mean = after[s, b, t, 0].mean(-1)
            best = mean.masked_fill(~one.avail[s, b, t + 1, 0], -1e7).argmax()
            y = one.reward[s, b, t] + 0.9 * (1 - one.terminated[s, b, t]) * after[s, b, t, 0, best]
            theta = z[s, b, t, 0, one.actions[s, b, t, 0]]
            loss = quantile_huber(theta, tau[s, b, t, 0], y)
            total += (loss * one.filled[s, b, t]).item()
        assert found[s].item() == pytest.approx(total / one.filled[s].sum().item(), rel=1e-4)


def test_the_median_of_one_sample_is_half_the_huber_td_error() -> None:
    """N = N' = 1 at tau = 0.5: 0.5 Huber(y - Z), with QMIX's target of these samples."""
    net, target, b = net_of("dmix"), net_of("dmix"), batch()
    cfg = DFACConfig(gamma=0.9, samples=1, target_samples=1)
    half = lambda *shape: torch.full((S, *shape), 0.5)  # noqa: E731
    found, _ = dfac_loss(net, target, b, half, cfg)
    h = net.trunk(b.inputs)
    omega = torch.full((S, B, T, 1, 1), 0.5)
    utilities = net.head(h[:, :, :-1], net.head.embed(omega))[..., 0]
    q = net.psi(utilities[..., 0], None, b.actions, b.state[:, :, :-1])[0]  # action 0 was taken
    after = net.head(h[:, :, 1:], net.head.embed(omega))[..., 0]
    best = after.masked_fill(~b.avail[:, :, 1:], -1e7).amax(-1)
    value = net.psi(best, None, b.actions, b.state[:, :, 1:])[0]
    u = b.reward + 0.9 * (1 - b.terminated) * value - q
    expected = (0.5 * huber(u, 1.0) * b.filled).sum((1, 2)) / b.filled.sum((1, 2))
    torch.testing.assert_close(found, expected)


def test_double_q_takes_the_online_networks_actions() -> None:
    """With online utilities that prefer action 1, the target's value is that of action 1."""
    b = batch()
    b.avail[:] = True
    net, target = net_of("vdn"), net_of("vdn")
    with torch.no_grad():
        for one, action in ((net, 1), (target, 2)):
            one.head.weight.zero_()
            one.head.bias.zero_()
            one.head.bias[..., action] = 1.0
        target.head.bias[..., 1] = -3.0
    q = {}
    for double in (False, True):
        loss, _ = td_loss(net, target, b, DFACConfig(gamma=1.0, double_q=double))
        after = N * (-3.0 if double else 1.0)
        y = b.reward + (1 - b.terminated) * after
        expected = (y.square() * b.filled).sum((1, 2)) / b.filled.sum((1, 2))
        torch.testing.assert_close(loss, expected)
        q[double] = loss
    assert not torch.allclose(q[False], q[True])


@pytest.mark.parametrize("name", ["dmix", "ddn", "diql", "dplex", "naive", "dmix-c51", "qplex"])
def test_losses_see_neither_padding_nor_unavailable_actions(name: str) -> None:
    """What is padded, follows an end, or cannot be done changes no loss; all weights learn."""
    net, target = net_of(name), net_of(name)
    cfg = DFACConfig(samples=3, target_samples=3)

    def loss(b: Batch) -> Tensor:
        if isinstance(net, QuantileNet):
            return dfac_loss(net, target, b, draw_from(7), cfg)[0]
        if isinstance(net, CategoricalNet):
            return c51_loss(net, target, b, cfg)[0]
        return td_loss(net, target, b, cfg)[0]

    b = batch()
    first = loss(b)
    first.sum().backward()
    assert not [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    b.reward[:, 0, -1] = 1e3  # padding
    b.state[:, :, -1] = 1e3  # after the end
    torch.testing.assert_close(loss(b), first)
    b.reward[:, 1, 0] += 1.0
    assert (loss(b) - first).abs().min() > 1e-4


# ------------------------------------------------------------------ C51


def test_convolution_by_hand() -> None:
    half = torch.tensor([0.5, 0.5])
    assert convolve(half, half).tolist() == [0.25, 0.5, 0.25]
    p, q = draws(4, 6).softmax(-1), draws(4, 3, seed=1).softmax(-1)
    joint = convolve(p, q)
    expected = np.stack([np.convolve(a, b) for a, b in zip(p.numpy(), q.numpy(), strict=True)])
    np.testing.assert_allclose(joint.numpy(), expected, rtol=1e-5)

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        grid = torch.arange(x.shape[-1], dtype=x.dtype)
        mean = x @ grid
        return mean, x @ grid.square() - mean.square()

    for of_sum, a, b in zip(moments(joint), moments(p), moments(q), strict=True):
        torch.testing.assert_close(of_sum, a + b)


def test_projection_keeps_the_mean_within_the_grid() -> None:
    p = draws(3, 5).softmax(-1)
    atoms = torch.linspace(0.3, 3.7, 5).expand(3, 5)
    found = project(p, atoms, 0.0, 0.5, 9)
    torch.testing.assert_close(found.sum(-1), torch.ones(3))
    torch.testing.assert_close(found @ (0.5 * torch.arange(9.0)), (p * atoms).sum(-1))
    outside = project(torch.tensor([0.4, 0.6]), torch.tensor([-3.0, 99.0]), 0.0, 1.0, 3)
    torch.testing.assert_close(outside, torch.tensor([0.4, 0.0, 0.6]))
    grid = torch.tensor([0.0, 1.0, 2.0])
    at = torch.tensor([0.1, 0.4, 0.5, 0.95])
    assert quantiles(torch.tensor([0.2, 0.3, 0.5]), grid, at).tolist() == [0, 1, 1, 2]
    assert quantiles(torch.tensor([1.0, 0.0, 0.0]), grid, at).tolist() == [0, 0, 0, 0]


def test_categorical_joint_law_has_psi_as_mean() -> None:
    net = net_of("dmix-c51", Sizes(**{**SIZES.__dict__, "support": (-40.0, 40.0), "atoms": 161}))
    b = batch()
    h = net.trunk(b.inputs)[:, :, :-1]
    with torch.no_grad():
        net.head.weight.mul_(3)
        p = net.masses(h, b.actions, b.state[:, :, :-1])
        q = net.means(h)[..., 0]
        value = net.psi(q, q, b.actions, b.state[:, :, :-1])[0]
        # uniform laws on a wide grid: their sum is cut off, so take narrow ones
        narrow = torch.zeros(S, B, T, N, 161)
        narrow[..., 78:84] = 1 / 6
    torch.testing.assert_close(p.sum(-1), torch.ones(S, B, T))
    joint = joint_masses(narrow, value, -40.0, 0.5)
    torch.testing.assert_close(joint @ net.grid(joint), value, atol=1e-3, rtol=1e-4)
