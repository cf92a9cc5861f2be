"""The flow policy against closed forms, autograd and quadrature; bandits with known solutions."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from common.flows import AdditiveCoupling
from common.sac import Batch
from common.stacked import randn, seed_generators
from papers.meow.method import (
    EnergyFlow,
    MEow,
    MEowConfig,
    bellman_target,
    soft_bellman_loss,
)
from papers.meow.soft_value import quadrature_v, unclipped, uniform_estimates

torch.set_num_threads(1)
WIDE = (-2.0, 1.0)


def agent(S=2, obs=3, dim=2, **changes) -> MEow:
    cfg = MEowConfig(**{"log_sigma": WIDE, "alpha": 0.7, **changes})
    return MEow(seed_generators(range(S), 0), seed_generators(range(S), 1), obs, dim, cfg)


def random_policy(S=2, obs=3, dim=2, scale=0.5, **changes) -> EnergyFlow:
    """In eval mode; the zero weights of sigma and b are made random: both see the state."""
    policy = agent(S, obs, dim, **changes).policy
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in policy.parameters():
            p += scale * torch.randn(p.shape, generator=g) / math.sqrt(p.shape[1])
    return policy


def log_normal(z: Tensor) -> Tensor:
    return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)


def jacobian(f, x: Tensor) -> tuple[Tensor, Tensor]:
    """J[..., i, j] = d f_i / d x_j of every sample, and f(x)."""
    x = x.clone().requires_grad_()
    y = f(x)
    rows = [
        torch.autograd.grad(y[..., i].sum(), x, retain_graph=True)[0] for i in range(y.shape[-1])
    ]
    return torch.stack(rows, -2), y.detach()


def states(S=2, B=5, obs=3) -> Tensor:
    return torch.randn(S, B, obs, generator=torch.Generator().manual_seed(5))


def actions(S=2, B=5, dim=2) -> Tensor:
    return 1.8 * torch.rand(S, B, dim, generator=torch.Generator().manual_seed(6)) - 0.9


# ------------------------------------------------------------------ one flow: Q, V, pi


@pytest.mark.parametrize("coupling", ["additive", "affine"])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_q_minus_v_is_alpha_log_pi_with_autograds_jacobian(dim, coupling):
    policy = unclipped(random_policy(dim=dim, coupling=coupling))
    state, action = states().double(), actions(dim=dim).double()
    difference = (policy.q(state, action) - policy.v(state)) / policy.alpha
    J, z = jacobian(lambda a: policy.flow(a, state)[0], action)
    torch.testing.assert_close(difference, log_normal(z) + torch.linalg.slogdet(J).logabsdet)
    torch.testing.assert_close(policy.log_prob(state, action), difference)


@pytest.mark.parametrize("coupling", ["additive", "affine"])
def test_sampled_log_probability_is_that_of_the_sampled_action(coupling):
    policy = random_policy(coupling=coupling)
    state, z = states(B=50), 0.7 * randn(seed_generators((0, 1), 9), 50, 2)
    action, log_pi = policy.sample(state, z)
    difference = (policy.q(state, action) - policy.v(state)) / policy.alpha
    torch.testing.assert_close(log_pi, difference)
    # independently: log N(z) minus the log-determinant of dz -> da, by autograd
    J, _ = jacobian(lambda x: policy.act(state, x), z)
    inverse_log_det = torch.linalg.slogdet(J).logabsdet
    keep = action.abs().amax(-1) < 0.999  # beyond, training's guard clips the action
    assert keep.float().mean() > 0.5
    expected = log_normal(z) - inverse_log_det
    torch.testing.assert_close(log_pi[keep], expected[keep], atol=2e-3, rtol=1e-3)

    # The authors' `sample` adds the log-determinants of the inverse: wrong by twice them. A
    # temperature tuned on it would go the wrong way: narrower policies seem to have more entropy.
    authors = log_normal(z) + inverse_log_det
    torch.testing.assert_close((authors - expected), 2 * inverse_log_det)
    assert (authors - difference).abs()[keep].median() > 1


@pytest.mark.parametrize("coupling", ["additive", "affine"])
@pytest.mark.parametrize("dim", [1, 2])
def test_policy_is_normalised_and_v_is_exact_by_quadrature(dim, coupling):
    policy = unclipped(random_policy(scale=0.2, dim=dim, coupling=coupling))
    for x in states(S=1, B=2)[0]:
        v = policy.v_clip(x.double().expand(2, 1, -1)).squeeze(1)
        assert v.std() > 1e-3
        # hence int pi da = int exp((q_clip - v_clip) / alpha) da = 1
        torch.testing.assert_close(quadrature_v(policy, x, points=120), v, atol=2e-3, rtol=0)


def test_v_does_not_see_the_action_and_q_does():
    policy = random_policy()
    state, a, b = states(), actions(), -actions()
    v = [policy.flow.split(x, state)[2] for x in (a, b)]
    assert torch.equal(v[0], v[1])
    assert (policy.q(state, a) - policy.q(state, b)).abs().min() > 1e-4
    assert (policy.v(state).std(1) > 1e-3).all()  # a function of the state


def test_shifts_move_q_and_v_alike_and_leave_the_samples_bit_identical():
    policy = random_policy()
    state, a, z = states(), actions(), randn(seed_generators((0, 1), 9), 5, 2)
    before = policy.sample(state, z)
    q, v = policy.q_clip(state, a), policy.v_clip(state)
    with torch.no_grad():
        for net in policy.shifts.nets:
            net.layers[-1].bias += 2.0
    after = policy.sample(state, z)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    moved = policy.alpha * 2.0  # the output of the net is inside alpha
    torch.testing.assert_close(policy.q_clip(state, a) - q, torch.full_like(q, moved))
    torch.testing.assert_close(policy.v_clip(state) - v, torch.full_like(v, moved))


def test_v_is_bounded_without_shifts():
    """The clamp on log sigma: V in alpha A [low, high]; only b lets it range over R."""
    policy = random_policy(scale=20.0, shifts=0, log_sigma=(-5.0, 2.0), alpha=0.25, dim=6)
    v = policy.v(100 * states(B=200))
    low, high = 0.25 * 6 * -5.0, 0.25 * 6 * 2.0
    assert v.min() >= low - 1e-4 and v.max() <= high + 1e-4
    assert v.max() - v.min() > 0.4 * (high - low)
    assert torch.equal(policy.b(states()), torch.zeros(2, 5, 1))


@pytest.mark.parametrize("coupling", ["additive", "affine"])
def test_inverse_undoes_forward(coupling):
    policy = random_policy(coupling=coupling)
    state, z = states(B=100), 0.5 * randn(seed_generators((0, 1), 9), 100, 2)
    action = policy.act(state, z)
    keep = action.abs().amax(-1) < 0.999
    assert keep.float().mean() > 0.5
    torch.testing.assert_close(policy.flow(action, state)[0][keep], z[keep], atol=1e-3, rtol=1e-3)
    double = unclipped(policy)
    z, state = z.double(), state.double()
    there = double.flow(double.act(state, z), state)[0]
    torch.testing.assert_close(there[keep], z[keep], atol=1e-5, rtol=1e-5)


def test_additive_couplings_have_no_determinant():
    policy = random_policy(dim=3)
    action = actions(dim=3)
    _, log_det = policy.flow(action, states())
    torch.testing.assert_close(log_det, -torch.log1p(-action.square()).sum(-1))
    for layer in policy.flow.layers:
        if isinstance(layer, AdditiveCoupling):
            assert layer.constant and layer.log_det(states()).abs().max() == 0
    log_sigma = policy.flow.layers[-1].of(states())
    torch.testing.assert_close(policy.v(states()), policy.alpha * log_sigma.sum(-1))


def test_masks_in_generation_order_and_a_single_action_dimension():
    policy = random_policy(dim=3)
    generation = [m.mask.tolist() for m in reversed(policy.flow.layers) if hasattr(m, "mask")]
    assert generation == [[1, 0, 1], [0, 1, 0], [1, 0, 1], [0, 1, 0]]
    # with one dimension the couplings are shifts by the state: u - mu(s) is N(0, sigma(s)^2)
    policy = random_policy(dim=1)
    z = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1).expand(2, 3, 1)
    u = torch.atanh(policy.act(states(B=1).expand(2, 3, 3), z))
    torch.testing.assert_close(u[:, 1] - u[:, 0], u[:, 2] - u[:, 1], atol=1e-3, rtol=1e-3)


def test_deterministic_action_is_the_mode_before_the_tanh():
    policy = unclipped(random_policy())
    state = states().double()
    u = torch.atanh(policy.mode(state)).requires_grad_()
    log_density = policy.log_prob(state, torch.tanh(u)) + torch.log(1 - torch.tanh(u).square()).sum(
        -1
    )
    (gradient,) = torch.autograd.grad(log_density.sum(), u)
    assert gradient.abs().max() < 1e-8
    # the tanh moves it: over actions the gradient is not 0
    a = policy.mode(state).requires_grad_()
    (gradient,) = torch.autograd.grad(policy.q(state, a).sum(), a)
    assert gradient.abs().max() > 1e-2


def test_dropout_is_on_in_the_loss_and_nowhere_else():
    learner = agent(S=1)
    batch = transitions(1)
    y = torch.zeros(1, 8)
    policy = learner.policy
    assert not policy.training and not learner.target.training
    assert torch.equal(policy.q(batch.obs, batch.action), policy.q(batch.obs, batch.action))
    policy.train()
    a, b = (soft_bellman_loss(policy, batch, y) for _ in range(2))
    assert not torch.equal(a, b)
    policy.eval()
    learner.update(batch)
    assert not policy.training and not learner.target.training
    # masks keep the mean and drop a tenth
    dropout = next(m for m in policy.modules() if type(m).__name__ == "Dropout").train()
    out = dropout(torch.ones(1, 100, 400))
    torch.testing.assert_close(out.unique(), torch.tensor([0.0, 1 / 0.9]))
    assert abs((out == 0).float().mean() - 0.1) < 0.01


# ------------------------------------------------------------------ target and loss


def transitions(S=2, B=8, obs=3, dim=2) -> Batch:
    g = torch.Generator().manual_seed(8)
    return Batch(
        obs=torch.randn(S, B, obs, generator=g),
        action=1.6 * torch.rand(S, B, dim, generator=g) - 0.8,
        reward=torch.randn(S, B, generator=g),
        next_obs=torch.randn(S, B, obs, generator=g),
        terminated=(torch.rand(S, B, generator=g) < 0.4).float(),
    )


def test_the_targets_minimum_is_over_the_shifts_alone():
    learner = agent()
    target, batch = random_policy(scale=3.0), transitions()
    with torch.no_grad():  # neither shift is the smaller one everywhere
        apart = target.b(batch.next_obs).diff(dim=-1).median(1).values / target.alpha
        target.shifts.nets[0].layers[-1].bias += apart.unsqueeze(-1)
    y = bellman_target(target, batch, gamma=0.9)
    assert not y.requires_grad
    b = target.b(batch.next_obs)
    assert (b[..., 0] < b[..., 1]).any() and (b[..., 0] > b[..., 1]).any()  # both matter
    v = target.v(batch.next_obs) + torch.minimum(b[..., 0], b[..., 1])
    expected = batch.reward + 0.9 * torch.where(batch.terminated > 0, 0.0, v)
    torch.testing.assert_close(y, expected)
    assert learner.cfg.shifts == 2


def test_loss_is_the_mean_over_the_concatenated_squared_errors():
    policy, batch = random_policy(dropout=0.0), transitions()
    y = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    q, b = policy.q(batch.obs, batch.action), policy.b(batch.obs)
    errors = torch.cat((q + b[..., 0] - y, q + b[..., 1] - y), dim=1)  # 2 B of them
    loss = soft_bellman_loss(policy, batch, y)
    torch.testing.assert_close(loss, errors.square().mean(1))
    y[0, 0] = math.nan  # counts as 0, before the mean
    there = errors.square()
    there[0, [0, 8]] = 0
    torch.testing.assert_close(soft_bellman_loss(policy, batch, y), there.mean(1))


def test_one_update_moves_the_slow_copy_by_tau_and_the_policy_by_one_adam_step():
    learner = agent(tau=0.1)
    reference = copy.deepcopy(
        learner.policy,
        {
            id(m.generators): m.generators
            for m in learner.policy.modules()
            if hasattr(m, "generators")
        },
    )
    slow = [p.clone() for p in learner.target.parameters()]
    for dropout in (learner.policy, reference):
        for m in dropout.modules():
            if type(m).__name__ == "Dropout":
                m.p = 0.0
    batch = transitions()
    y = bellman_target(learner.target, batch, learner.cfg.gamma)
    soft_bellman_loss(reference, batch, y).sum().backward()
    learner.update(batch)
    for p, old, new, ref in zip(
        learner.target.parameters(),
        slow,
        learner.policy.parameters(),
        reference.parameters(),
        strict=True,
    ):
        torch.testing.assert_close(p - old, 0.1 * (new - old), atol=1e-6, rtol=1e-4)
        step = -1e-3 * torch.sign(ref.grad)  # Adam's first step
        large = ref.grad.abs() > 1e-4
        torch.testing.assert_close((new - old)[large], step[large], atol=2e-5, rtol=0.02)
    assert all(p.grad is None for p in learner.target.parameters())


# ------------------------------------------------------------------ bandits


def bandit(learner, reward, updates, lr, batch=256):
    """On-policy squared loss with gamma = 0, dropout off."""
    for m in learner.policy.modules():
        if type(m).__name__ == "Dropout":
            m.p = 0.0
    S = len(learner.noise)
    g = seed_generators(range(S), 77)
    state = torch.zeros(
        S, batch, learner.policy.flow.layers[-1].log_sigma.net.layers[0].weight.shape[1]
    )
    for i in range(updates):
        for group in learner.optimizer.param_groups:  # calmer at the end: V fluctuates by 0.05
            group["lr"] = lr if i < 0.75 * updates else lr / 5
        action = learner.act(state, randn(g, batch, learner.policy.dim))
        action = action.clamp(-1 + 1e-5, 1 - 1e-5)
        zero = torch.zeros(S, batch)
        learner.update(Batch(state, action, reward(action), state, zero + 1))
    return learner.policy


def test_one_step_bandit_of_one_action():
    small = {"hidden": 32, "hidden_shift": 32}
    learner = agent(S=1, obs=1, dim=1, alpha=0.5, gamma=0.0, log_sigma=(-5.0, -0.3), **small)
    policy = bandit(learner, lambda a: -5 * (a - 0.3).square().sum(-1), 400, 4e-3, batch=96)
    a = torch.linspace(-1, 1, 4_001)[1:-1].view(1, -1, 1)
    pi = policy.log_prob(torch.zeros(1, a.shape[1], 1), a).exp().squeeze()
    exact = torch.exp(-5 * (a.squeeze() - 0.3).square() / 0.5)
    exact /= exact.sum() * 5e-4
    assert 0.5 * (pi - exact).abs().sum() * 5e-4 < 0.10
    v = policy.v_clip(torch.zeros(1, 1, 1)).item()
    assert v == pytest.approx(-0.290, abs=0.04)


def bent(a):
    """Realisable by couplings alone: u = atanh(a), u2 centred at 1.2 (u1^2 - 1/4)."""
    a = a.clamp(-1 + 1e-5, 1 - 1e-5)
    u = torch.atanh(a)
    r = -0.5 * (u[..., 0] / 0.5).square()
    r = r - 0.5 * ((u[..., 1] - 1.2 * (u[..., 0].square() - 0.25)) / 0.25).square()
    return r - torch.log1p(-a.square()).sum(-1)


def bent_distance(policy) -> float:
    """Total variation before the tanh."""
    axis = torch.linspace(-3, 3, 301)
    u = torch.cartesian_prod(axis, axis).unsqueeze(0)
    a = torch.tanh(u)
    log_volume = torch.log1p(-a.square()).sum(-1)
    exact = torch.exp(bent(a) + log_volume) / (2 * math.pi * 0.5 * 0.25)
    state = torch.zeros(1, u.shape[1], 1)
    with torch.no_grad():
        ours = torch.exp(policy.log_prob(state, a) + log_volume)
    return float(0.5 * (ours - exact).abs().sum() * 0.02**2)


def test_bent_bandit_needs_the_couplings():
    cfg = {"S": 1, "obs": 1, "dim": 2, "alpha": 1.0, "gamma": 0.0, "log_sigma": (-5.0, 1.0)}
    cfg["hidden_shift"] = 32
    policy = bandit(agent(**cfg), bent, 300, 2.5e-3, batch=128)
    assert bent_distance(policy) < 0.10
    v = policy.v_clip(torch.zeros(1, 1, 1)).item()
    assert v == pytest.approx(math.log(2 * math.pi * 0.5 * 0.25), abs=0.06)  # -0.242

    # a tanh-Gaussian with the same number of layers: the nets do not see the masked action
    blind = agent(**cfg)
    for layer in (*blind.policy.flow.layers, *blind.target.flow.layers):
        if isinstance(layer, AdditiveCoupling):
            net = layer.shift
            layer.shift = None  # not a parameter twice
            layer.__dict__["shift"] = lambda x, net=net: net(x * torch.tensor([0.0, 0.0, 1.0]))
    policy = bandit(blind, bent, 300, 2.5e-3, batch=128)
    assert 0.2 < bent_distance(policy) < 0.45


# ------------------------------------------------------------------ Monte Carlo


def test_importance_sampling_from_the_policy_itself_is_exact_for_every_size():
    policy = unclipped(random_policy())
    state = states(B=1)[:1].double().expand(2, 7, 3)
    action, log_pi = policy.sample(state, randn(seed_generators((0, 1), 9), 7, 2).double())
    each = policy.q_clip(state, action) - policy.alpha * log_pi
    torch.testing.assert_close(each, policy.v_clip(state), atol=1e-6, rtol=1e-6)


def test_uniform_estimates_converge_to_v():
    policy = random_policy(S=1, scale=0.2, log_sigma=(-1.0, -0.5)).requires_grad_(False)
    state = states(S=1, B=1)[0, 0]
    found = uniform_estimates(policy, state, seed_generators((0,), 4), {10: 50, 20_000: 2})
    v = policy.v_clip(state.expand(1, 1, -1)).item()
    error = {m: float((x - v).abs().median()) for m, x in found.items()}
    assert found[10].shape == (1, 50) and found[20_000].shape == (1, 2)
    assert error[20_000] < 0.05 < error[10]
    assert np.isfinite(list(error.values())).all()
