"""Oracles of the losses, the surrogate and Theorem 1."""

import math

import pytest
import torch

from common.gfn.objectives import mean_weights
from papers.gfn_losses import task
from papers.gfn_losses.method import (
    LOSSES,
    QUADRATIC,
    divergence,
    f_from_g,
    g_from_f,
    linex,
    log_ratio,
    logged_loss,
    objective,
    scalar,
    surrogate,
)

D = torch.float64
TABLE = {  # g(1), g(-1)
    "quadratic": (0.5, 0.5),
    "linex1": (0.71828183, 0.36787944),
    "linex05": (0.59488508, 0.42612264),
    "shifted-cosh": (1.08616127, 1.08616127),
}
F4 = {
    "quadratic": lambda u: u * math.log(u) - u + 1,
    "linex1": lambda u: 0.5 * (u - 1) ** 2,
    "linex05": lambda u: 4 / 3 * u**1.5 - 2 * u + 2 / 3,
    "shifted-cosh": lambda u: 0.5 * u * u - math.log(u) - 0.5,
}


@pytest.mark.parametrize("name", LOSSES)
def test_table_values(name: str) -> None:
    g = scalar(LOSSES[name].g)
    assert (g(1.0), g(-1.0)) == pytest.approx(TABLE[name], abs=5e-9)
    assert g(0.0) == 0.0


@pytest.mark.parametrize("name", LOSSES)
def test_slope_is_the_derivative(name: str) -> None:
    t = torch.linspace(-4, 4, 33, dtype=D, requires_grad=True)
    (grad,) = torch.autograd.grad(LOSSES[name].g(t).sum(), t)
    assert torch.allclose(grad, LOSSES[name].slope(t.detach()), atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("u", [0.1, 0.5, 2.0, 7.0])
def test_divergence_generators(name: str, u: float) -> None:
    loss = LOSSES[name]
    assert f_from_g(u, scalar(loss.slope)) == pytest.approx(scalar(loss.f)(u), abs=1e-8)
    assert g_from_f(math.log(u), scalar(loss.f)) == pytest.approx(
        scalar(loss.g)(math.log(u)), abs=1e-8
    )
    assert scalar(loss.f4)(u) == pytest.approx(F4[name](u), abs=1e-12)


@pytest.mark.parametrize(
    ("alpha", "f"),
    [(-1.0, lambda u: (u - 1) ** 2 / (2 * u)), (2.0, lambda u: (u - 1) ** 2 / 2)],
)
def test_chi_square_members(alpha: float, f) -> None:
    for u in (0.1, 0.5, 2.0, 7.0):
        assert scalar(linex(alpha).f)(u) == pytest.approx(f(u), abs=1e-12)
        assert f_from_g(u, scalar(linex(alpha).slope)) == pytest.approx(f(u), abs=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_quadrants(name: str) -> None:
    loss = LOSSES[name]
    f = scalar(loss.f)
    # f(0) grows without bound, or has settled at its limit
    assert (f(1e-30) > f(1e-15) + 1) == loss.zero_forcing
    slope_at_infinity = (f(1e9) - f(1e8)) / 9e8
    assert (slope_at_infinity > 5) == loss.zero_avoiding


def test_linex_tends_to_quadratic() -> None:
    t = torch.linspace(-2, 2, 41, dtype=D)
    t = t[t.abs() > 1e-6]
    near, exact = linex(1e-4).g(t), QUADRATIC.g(t)
    assert ((near - exact).abs() / exact).max() < 1e-3
    assert linex(0.0) is QUADRATIC


def test_sign_of_t() -> None:
    """t > 0: the forward flow is too small; Linex(1) then pushes it up exponentially."""
    forward = torch.tensor([-3.0], dtype=D, requires_grad=True)
    t = log_ratio((forward, torch.tensor([0.0], dtype=D)))
    assert t.item() == 3.0
    surrogate(t, LOSSES["linex1"]).sum().backward()
    assert forward.grad.item() == pytest.approx(-math.expm1(3.0))


@pytest.mark.parametrize("name", LOSSES)
def test_surrogate_gradient(name: str) -> None:
    loss, clip = LOSSES[name], 6.0
    t = torch.tensor([-9.0, -5.0, -0.3, 0.0, 2.0, 5.9, 8.0], dtype=D, requires_grad=True)
    (ours,) = torch.autograd.grad(surrogate(t, loss, clip).sum(), t)
    (exact,) = torch.autograd.grad(loss.g(t).sum(), t)
    inside = t.detach().abs() < clip
    assert torch.allclose(ours[inside], exact[inside], atol=1e-12)
    edge = loss.slope(torch.tensor([-clip, clip], dtype=D))
    assert ours[0] == edge[0] and ours[-1] == edge[1]
    assert ours[0] < 0 < ours[-1]  # never zero, never the wrong direction


@pytest.mark.parametrize("name", LOSSES)
def test_huge_errors_stay_finite(name: str) -> None:
    t = torch.tensor([-300.0, 300.0, 89.0], requires_grad=True)
    value = surrogate(t, LOSSES[name])
    (grad,) = torch.autograd.grad(value.sum(), t)
    assert torch.isfinite(grad).all() and (grad != 0).all()
    assert torch.isfinite(logged_loss(t, LOSSES[name])).all()


def test_objective_is_a_mean_per_seed_and_ignores_padding() -> None:
    forward = torch.tensor([[0.0, 1.0, -1e9], [2.0, 0.0, 0.0]], requires_grad=True)
    backward = torch.zeros(2, 3)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    weights = mean_weights(mask)
    value, logged = objective((forward, backward), weights, QUADRATIC)
    assert logged.tolist() == pytest.approx([0.25, 2.0])
    value.sum().backward()
    assert forward.grad.tolist() == [[0.0, 0.5, 0.0], [2.0, 0.0, 0.0]]


def test_published_tree_gradient() -> None:
    """Rewards (1, 2, 5): the on-policy gradient of Linex(1) has known values."""
    logits = torch.tensor([0.3, -0.2, 0.0], dtype=D, requires_grad=True)
    log_z = torch.tensor(1.5, dtype=D, requires_grad=True)
    forward = log_z + logits.log_softmax(0)
    t = log_ratio((forward, torch.tensor([1.0, 2.0, 5.0], dtype=D).log()))
    value = (forward.detach().exp() * LOSSES["linex1"].g(t)).sum()
    value.backward()
    assert logits.grad.tolist() == pytest.approx([2.40810012, 0.06711721, -2.47521733], abs=1e-8)
    assert log_z.grad.item() == pytest.approx(-3.51831093, abs=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_theorem(name: str) -> None:
    errors = task.theory_errors(LOSSES[name], range(5))
    assert {dag for dag, _, _ in errors} == {"tree", "layered TB", "layered DB"}
    assert {(d, p) for d, p, _ in errors} >= {("layered DB", f"f{i}") for i in range(1, 5)}
    assert max(error for _, _, error in errors) < 1e-12


@pytest.mark.parametrize("name", ["linex1", "linex05"])
def test_theorem_needs_the_right_sign_and_the_right_f(name: str) -> None:
    """The check can fail: Linex(-alpha), or the divergence of another loss, is off by far."""
    from dataclasses import replace

    right = LOSSES[name]
    alpha = 1.0 if name == "linex1" else 0.5
    flipped = replace(linex(-alpha), f=right.f, f4=right.f4)
    assert max(e for _, _, e in task.theory_errors(flipped, range(1))) > 0.1
    wrong = replace(right, f=QUADRATIC.f)
    assert max(e for _, p, e in task.theory_errors(wrong, range(1)) if p == "f1") > 0.1
    halved = replace(right, g=lambda t: 2 * right.g(t))
    assert max(e for _, p, e in task.theory_errors(halved, range(1)) if p == "f1") > 0.1


def test_shared_flow_needs_separate_leaves() -> None:
    """A flow that enters both sides gets the f1 part plus the f2 part: f1 alone does not match."""
    dag = task.LayeredDAG.random(0)
    dag.log_flow_b = dag.log_flow_f
    assert dag.edge_errors(LOSSES["linex1"])["f1"] > 0.1


def test_divergence_is_zero_only_at_equality() -> None:
    p = torch.tensor([0.1, -0.4], dtype=D)
    for loss in LOSSES.values():
        assert float(divergence(p, p, loss.f).abs()) < 1e-14
        assert float(divergence(p, p + 0.3, loss.f)) > 1e-3
