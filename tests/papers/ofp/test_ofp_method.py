"""Oracles of the losses, the sampler and the warm start of One-Step Flow Policy."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch

from papers.ofp import baselines, method
from papers.ofp.method import OFPConfig

S, B, D, C = 2, 40, 6, 3


class Net(torch.nn.Module):
    """Small random network in the interface of networks.py; records what it is asked."""

    def __init__(self, seed: int, d: int = D, c: int = C, dtype=torch.float32) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.first = torch.nn.Parameter(0.4 * torch.randn(d + 2 + c + 1, 24, generator=g).to(dtype))
        self.last = torch.nn.Parameter(0.4 * torch.randn(24, d, generator=g).to(dtype))
        self.calls: list[dict[str, torch.Tensor]] = []

    def encode(self, obs):
        return obs

    def forward(self, z, t, r, c, null):
        self.calls.append({"z": z, "t": t, "r": r, "c": c, "null": null})
        x = torch.cat((z, t, r, c * (1 - null), null), dim=-1)
        return torch.tanh(x @ self.first) @ self.last


class Noise:
    """The interface of train.SeededNoise for tests."""

    def __init__(self, seed: int, s: int = S) -> None:
        self.g, self.s = torch.Generator().manual_seed(seed), s

    def normal(self, *shape):
        return torch.randn(self.s, *shape, generator=self.g)

    def uniform(self, *shape):
        return torch.rand(self.s, *shape, generator=self.g)


def batch(seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(S, B, C, generator=g), torch.randn(S, B, D, generator=g)


def triple(dtype=torch.float64):
    g = torch.Generator().manual_seed(3)
    eps, a = torch.randn(2, S, B, D, generator=g, dtype=dtype)
    t, m, r = torch.rand(3, S, B, 1, generator=g, dtype=dtype).sort(dim=0).values
    return eps, a, t, m, r


# ------------------------------------------------------------------ self-consistency target


def test_target_without_bootstrapping_is_the_velocity():
    eps, a, t, _, r = triple()
    u = torch.randn_like(a)
    target = method.self_consistency_target(u, eps, a, t, r, r)
    torch.testing.assert_close(target, a - eps, atol=1e-6, rtol=1e-6)


def test_target_at_m_equal_t_is_the_teacher():
    eps, a, t, _, r = triple()
    u = torch.randn_like(a)
    target = method.self_consistency_target(u, eps, a, t, t, r)
    torch.testing.assert_close(target, u, atol=1e-6, rtol=1e-6)


def test_target_is_a_convex_combination_and_not_clamped():
    eps, a, t, m, r = triple()
    u = 40 * torch.randn_like(a)
    share = (m - t) / (r - t)
    target = method.self_consistency_target(u, eps, a, t, m, r)
    torch.testing.assert_close(target, share * (a - eps) + (1 - share) * u, atol=1e-6, rtol=1e-6)
    assert target.abs().max() > 10  # a clamp to any plausible velocity range would be seen


def test_meanflow_is_the_limit_of_small_gaps():
    """(u* - u^-) (r-t) / delta -> (a-eps) - u^- + (r-t) du^-/dt, with error O(delta)."""
    net = Net(0, dtype=torch.float64)
    eps, a, t, _, r = triple()
    t, r = 0.4 * t, 0.5 + 0.5 * r
    c = torch.randn(S, B, C, dtype=torch.float64)
    null = torch.zeros_like(t)
    z = method.interpolate(eps, a, t)
    u, du_dt = torch.func.jvp(
        lambda z, t: net(z, t, r, c, null), (z, t), (a - eps, torch.ones_like(t))
    )
    limit = (a - eps) - u + (r - t) * du_dt
    errors = []
    for delta in (1e-2, 1e-3, 1e-4):
        m = t + delta
        teacher = net(method.interpolate(eps, a, m), m, r, c, null)
        target = method.self_consistency_target(teacher, eps, a, t, m, r)
        errors.append(((target - u) * (r - t) / delta - limit).abs().mean().item())
    assert errors[2] < 1e-3
    assert 5 < errors[0] / errors[1] < 20 and 5 < errors[1] / errors[2] < 20


def test_contraction_falls_from_one_to_its_floor():
    assert method.contraction(0.0) == 1.0
    assert method.contraction(0.25) == 0.5
    assert method.contraction(0.5) == method.contraction(0.99) == 0.05  # 0: the map would freeze
    assert method.contraction(0.5, ends=1.0) == 0.5


@pytest.mark.parametrize("law", ["beta", "uniform"])
def test_intervals_are_ordered_and_hold_exact_pairs(law):
    t, r = method.sample_intervals(Noise(1), 400, law=law, share_exact=0.25, share_end=0.5)
    assert ((t >= 0) & (r <= 1.0005) & (r - t >= 0.9e-3)).all()
    exact = (t == 0) & (r == 1)
    assert exact.sum() == S * 100
    to_end = (t > 0) & (r == 1)
    assert to_end.sum() == S * 200
    if law == "beta":  # mean of Beta(1, 1.5) is .4
        assert abs(t[:, 100:].mean() - 0.4) < 0.03


# ------------------------------------------------------------------ the whole loss


def gradients(net, loss):
    return torch.autograd.grad(loss.sum(), list(net.parameters()))


def test_only_flow_is_plain_conditional_flow_matching():
    """lambda_sc = lambda_sg = 0: loss and gradients of five lines fed the same draws."""
    net, teacher = Net(0), Net(1)
    obs, a = batch()
    cfg = OFPConfig(lambda_sc=0, lambda_sg=0, p_drop=0.3)
    loss, _ = method.ofp_loss(net, teacher, obs, a, Noise(5), 0.3, cfg)

    noise = Noise(5)
    eps, null, t = noise.normal(B, D), (noise.uniform(B, 1) < 0.3).float(), noise.uniform(B, 1)
    z_t = (1 - t) * eps + t * a
    error = net(z_t, t, t, obs, null) - (a - eps)
    reference = (error**2).mean(dim=(1, 2))
    assert 0 < null.mean() < 1
    torch.testing.assert_close(loss, reference, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(gradients(net, loss), gradients(net, reference), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_whole_loss_matches_its_definition_term_by_term():
    """The batched forwards compute the three losses that separate calls would."""
    net, teacher = Net(0), Net(1)
    obs, a = batch()
    cfg = OFPConfig(lambda_sc=0.7, lambda_sg=0.3, p_drop=0.5)
    s = 0.4
    loss, _ = method.ofp_loss(net, teacher, obs, a, Noise(5), s, cfg)

    noise, n_sc, n_sg = Noise(5), B // 4, B // 10
    n = B - n_sc
    eps, null = noise.normal(B, D), (noise.uniform(B, 1) < 0.5).float()
    t = noise.uniform(n, 1)
    t_sc, r_sc = method.sample_intervals(noise, n_sc)
    m = t_sc + (r_sc - t_sc) * (1 - 2 * s) * noise.uniform(n_sc, 1)
    t_new, eps_new = noise.uniform(n_sg, 1), noise.normal(n_sg, D)
    z_t = (1 - t) * eps[:, :n] + t * a[:, :n]
    flow = method.mse(net(z_t, t, t, obs[:, :n], null[:, :n]), a[:, :n] - eps[:, :n])
    e, b, o, k = eps[:, n:], a[:, n:], obs[:, n:], null[:, n:]
    z_m = (1 - m) * e + m * b
    zhat = z_m + (r_sc - m) * teacher(z_m, m, r_sc, o, k)
    z_sc = (1 - t_sc) * e + t_sc * b
    target = ((zhat - z_sc) / (r_sc - t_sc)).detach()
    sc = method.mse(net(z_sc, t_sc, r_sc, o, k), target)
    z, t, o = z_t[:, :n_sg], t[:, :n_sg], obs[:, :n_sg]
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    y = net(z, t, one, o, zero)
    ahat = (z + (1 - t) * y).detach()
    z_new = (1 - t_new) * eps_new + t_new * ahat
    g = teacher(z_new, t_new, t_new, o, zero) - teacher(z_new, t_new, t_new, o, one)
    sg = method.mse(y, (y + g).detach())
    reference = flow + 0.7 * sc + 0.3 * sg
    torch.testing.assert_close(loss, reference, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(gradients(net, loss), gradients(net, reference), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_one_call_of_the_student_and_one_of_the_teacher_per_step():
    net, teacher = Net(0), Net(1)
    method.ofp_loss(net, teacher, *batch(), Noise(5), 0.3, OFPConfig())
    assert len(net.calls) == len(teacher.calls) == 1


def test_guidance_never_drops_its_condition():
    net, teacher = Net(0), Net(1)
    method.ofp_loss(net, teacher, *batch(), Noise(5), 0.3, OFPConfig(p_drop=1.0))
    n_sc, n_sg = B // 4, B // 10
    student = net.calls[0]["null"]
    assert (student[:, :-n_sg] == 1).all() and (student[:, -n_sg:] == 0).all()
    taught = teacher.calls[0]["null"]
    assert (taught[:, :n_sc] == 1).all()  # self-consistency: dropped like the student's
    assert (taught[:, n_sc : n_sc + n_sg] == 0).all() and (taught[:, n_sc + n_sg :] == 1).all()


def test_flow_rows_lie_on_the_diagonal_and_guidance_rows_end_at_one():
    net = Net(0)
    method.ofp_loss(net, Net(1), *batch(), Noise(5), 0.3, OFPConfig())
    t, r = net.calls[0]["t"], net.calls[0]["r"]
    n, n_sg = B - B // 4, B // 10
    assert (t[:, :n] == r[:, :n]).all()
    assert (r[:, n:-n_sg] > t[:, n:-n_sg]).all()
    assert (r[:, -n_sg:] == 1).all()


def test_no_gradient_reaches_the_teacher():
    net, teacher = Net(0), Net(1)
    cfg = OFPConfig(lambda_sg=1.0)
    loss, _ = method.ofp_loss(net, teacher, *batch(), Noise(5), 0.3, cfg)
    loss.sum().backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())


def test_student_as_its_own_teacher_gets_no_gradient_through_targets():
    """Sharing one module for both roles must give the gradients of a detached copy."""
    net, copy = Net(0), Net(0)
    cfg = OFPConfig(lambda_sg=1.0)
    shared, _ = method.ofp_loss(net, net, *batch(), Noise(5), 0.3, cfg)
    apart, _ = method.ofp_loss(net, copy, *batch(), Noise(5), 0.3, cfg)
    for x, y in zip(gradients(net, shared), gradients(net, apart), strict=True):
        torch.testing.assert_close(x, y)


def test_self_guidance_gradient_is_minus_two_g():
    y = torch.randn(S, 5, D, requires_grad=True)
    g = torch.randn(S, 5, D)
    (grad,) = torch.autograd.grad(method.self_guidance_loss(y, g).sum(), y)
    torch.testing.assert_close(grad, -2 * g / (5 * D))
    (grad,) = torch.autograd.grad(method.self_guidance_loss(y, 0 * g).sum(), y)
    assert (grad == 0).all()


def test_guidance_vanishes_where_the_teacher_ignores_the_condition():
    class Blind(Net):
        def forward(self, z, t, r, c, null):
            return super().forward(z, t, r, 0 * c, 0 * null)

    cfg = OFPConfig(lambda_sg=1.0)
    _, parts = method.ofp_loss(Net(0), Blind(1), *batch(), Noise(5), 0.3, cfg)
    assert (parts["guidance_norm"] == 0).all()
    _, parts = method.ofp_loss(Net(0), Net(1), *batch(), Noise(5), 0.3, cfg)
    assert (parts["guidance_norm"] > 0.01).all()


def test_teacher_is_the_moving_average():
    net, teacher = Net(0), Net(1)
    before = [p.clone() for p in teacher.parameters()]
    method.update_teacher(teacher, net, 0.9)
    for p, q, old in zip(teacher.parameters(), net.parameters(), before, strict=True):
        torch.testing.assert_close(p, 0.9 * old + 0.1 * q)


def test_defaults_are_the_published_ones():
    cfg = dataclasses.asdict(OFPConfig())
    assert cfg["lambda_sg"] == pytest.approx(0.05 * 0.1)
    assert cfg["lambda_sc"] == 1 and cfg["share_sc"] == 0.25 and cfg["rho_floor"] > 0
    assert cfg["p_drop"] > 0  # else the null condition is never trained


# ------------------------------------------------------------------ inference


@pytest.mark.parametrize("nfe", [1, 3, 100])
def test_constant_field_and_number_of_calls(nfe):
    eps, constant = torch.randn(2, S, B, D)
    calls = []

    def u(z, t, r, c, null):
        calls.append((t, r))
        return constant

    for sampler in (method.sample, baselines.euler_sample):
        calls.clear()
        out = sampler(u, eps, torch.zeros(S, B, C), nfe)
        torch.testing.assert_close(out, eps + constant, atol=1e-5, rtol=1e-5)
        assert len(calls) == nfe
    calls.clear()
    method.sample(u, eps, torch.zeros(S, B, C), nfe)
    assert calls[0][0].max() == 0 and calls[-1][1].min() == 1
    assert all((a[1] == b[0]).all() for a, b in itertools.pairwise(calls))


def test_shift_pads_with_the_last_action():
    chunk = torch.arange(1.0, 9.0).view(1, 8, 1)
    assert method.shift_chunk(chunk, 3).flatten().tolist() == [4, 5, 6, 7, 8, 8, 8, 8]


def test_warm_start_ends():
    net = Net(0)
    eps, shifted = torch.randn(2, S, B, D)
    c = torch.randn(S, B, C)
    cold = method.sample(net, eps, c, 2)
    warm = method.sample(net, method.warm_start(eps, shifted, 0.0), c, 2, t_start=0.0)
    torch.testing.assert_close(warm, cold)
    held = method.sample(net, method.warm_start(eps, shifted, 1.0), c, 1, t_start=1.0)
    torch.testing.assert_close(held, shifted)


def test_warm_start_jumps_from_its_time_to_one():
    net = Net(0)
    eps, shifted = torch.randn(2, S, B, D)
    c, t = torch.randn(S, B, C), torch.full((S, B, 1), 0.15)
    z = method.warm_start(eps, shifted, 0.15)
    torch.testing.assert_close(z, 0.85 * eps + 0.15 * shifted)
    ours = method.sample(net, z, c, 1, t_start=0.15)
    one = torch.ones_like(t)
    torch.testing.assert_close(ours, z + 0.85 * net(z, t, one, c, 0 * one))


# ------------------------------------------------------------------ Gaussian flow map

MU, STD = 1.0, 0.5


def exact_u(z, t, r):
    def S_(t):
        return (1 - t) ** 2 + t**2 * STD**2

    phi = r * MU + torch.sqrt(S_(r) / S_(t)) * (z - t * MU)
    return (phi - z) / (r - t)


def conditional_means(z, t):
    """E[eps | z_t = z] and E[a | z_t = z] for a ~ N(MU, STD^2)."""
    S_t = (1 - t) ** 2 + t**2 * STD**2
    centred = (z - t * MU) / S_t
    return (1 - t) * centred, MU + t * STD**2 * centred


def expected_target(u_teacher, z, t, m, r):
    """E[u* | z_t = z] for a teacher that is linear in z: everything is at its conditional mean."""
    eps, a = conditional_means(z, t)
    taught = u_teacher(method.interpolate(eps, a, m), m, r)
    return method.self_consistency_target(taught, eps, a, t, m, r)


def test_exact_teacher_is_biased_by_the_gap_as_derived():
    z, t, r = (torch.tensor(x, dtype=torch.float64) for x in (1.0, 0.0, 1.0))
    torch.testing.assert_close(exact_u(z, t, r), 0.5 * torch.ones_like(z))
    for delta, number in ((0.5, 0.4472), (0.2, 0.4961), (0.1, 0.4992), (0.05, 0.49983)):
        ours = expected_target(exact_u, z, t, t + delta, r).item()
        closed = 0.5 * (1 - delta) / math.sqrt((1 - delta) ** 2 + 0.25 * delta**2)
        assert ours == pytest.approx(closed, abs=1e-9)
        assert ours == pytest.approx(number, abs=1e-4)


SLOPES = {1.0: -0.749, 0.5: -0.588, 0.2: -0.5315, 0.1: -0.515, 0.05: -0.5075}


def test_self_taught_fixed_point_has_the_derived_slope():
    """u(z, t, 1) = alpha(t) + beta(t) z at constant rho: iterate the expected target exactly."""
    n = 401
    t = torch.linspace(0, 0.999, n, dtype=torch.float64)
    nodes = (torch.arange(24, dtype=torch.float64) + 0.5) / 24  # midpoint rule in m
    for rho, slope in SLOPES.items():
        m = t[:, None] + (1 - t[:, None]) * rho * nodes  # [n, q]
        alpha, beta = torch.zeros(n).double(), torch.zeros(n).double()
        place = (m / 0.999 * (n - 1)).clamp(max=n - 1 - 1e-9)
        low = place.floor().long()
        part = place - low

        def teacher(z, m, r, alpha=None, beta=None, low=low, part=part):
            at = [torch.lerp(x[low], x[low + 1], part) for x in (alpha, beta)]
            return at[0] + at[1] * z

        one = torch.ones_like(m)
        for _ in range(4_000 if rho < 0.2 else 400):
            values = [
                expected_target(
                    lambda z, m, r, a=alpha, b=beta: teacher(z, m, r, a, b),
                    torch.full_like(m, z),
                    t[:, None].expand_as(m),
                    m,
                    one,
                ).mean(1)
                for z in (0.0, 1.0)
            ]
            change = (values[1] - values[0] - beta).abs().max()
            alpha, beta = values[0], values[1] - values[0]
            if change < 1e-7:
                break
        assert beta[0].item() == pytest.approx(slope, abs=0.004), rho
        assert alpha[0].item() == pytest.approx(1.0, abs=0.01), rho


def trained_slopes(share_end: float, steps: int) -> dict[float, float]:
    """Slope k of u(eps, 0, 1) = 1 + k eps of networks trained by ofp_loss at constant rho."""
    from papers.ofp.networks import MLP

    rhos = [1.0, 0.5, 0.2]
    torch.set_num_threads(1)
    generators = [torch.Generator().manual_seed(7) for _ in rhos]
    net = MLP(1, 1, generators, width=32, depth=2, frequencies=1)  # the map is smooth in time
    teacher = copy.deepcopy(net)
    cfg = OFPConfig(
        lambda_sg=0.0,
        p_drop=0.0,
        share_sc=0.5,
        share_end=share_end,
        rho_fixed=torch.tensor(rhos).view(-1, 1, 1),  # type: ignore[arg-type]
    )
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2, fused=True)
    draws, n = Noise(11, s=1), 256

    class Shared:  # the same draws for every rho
        def normal(self, *shape):
            return draws.normal(*shape).repeat(3, 1, 1)

        def uniform(self, *shape):
            return draws.uniform(*shape).repeat(3, 1, 1)

    noise, obs = Shared(), torch.zeros(3, n, 1)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * 0.5 * (1 + math.cos(math.pi * step / steps))
        a = MU + STD * noise.normal(n, 1)
        loss, _ = method.ofp_loss(net, teacher, obs, a, noise, step / steps, cfg)
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
        method.update_teacher(teacher, net, 0.7)
    x = torch.linspace(-2, 2, 81)
    eps = x.view(1, -1, 1).repeat(3, 1, 1)
    zero = torch.zeros_like(eps)
    with torch.no_grad():
        out = (eps + teacher(eps, zero, zero + 1, zero, zero))[..., 0]
    return {
        rho: ((out[i] - out[i].mean()) @ x / (x @ x)).item() - 1.0 for i, rho in enumerate(rhos)
    }


def test_trained_network_meets_the_table():
    for rho, slope in trained_slopes(share_end=0.75, steps=1_000).items():
        assert slope == pytest.approx(SLOPES[rho], abs=0.03), rho


def test_without_intervals_that_end_at_one_it_does_not():
    """Then nothing trains u(z_m, m, 1), which the target of (0, 1) is made of."""
    slopes = trained_slopes(share_end=0.0, steps=400)  # with them: -0.60 and -0.59 by then
    assert slopes[0.5] < SLOPES[0.5] - 0.06
    assert slopes[0.2] < SLOPES[0.2] - 0.1
