"""What is known exactly: projections, the chain, the frozen policy, the point's world."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.control.decision_transformer import TransformerConfig, decision_transformer
from common.control.sequences import Windows, action_loss
from papers.prompt_diffuser.baselines import (
    DataPrompt,
    SoftPrompt,
    rank_direction,
    regressed,
    regression_loss,
    with_adapters,
)
from papers.prompt_diffuser.method import (
    Condition,
    PromptShape,
    combined,
    denoising_loss,
    flat,
    generated,
    guidance_loss,
    inner,
    noise_predictor,
    off_the_line,
    off_the_space,
    prompt_of,
    schedule,
)
from papers.prompt_diffuser.suites import Paid, Point, PointBatch, unit
from papers.prompt_diffuser.task import THREE_QUADRANTS, WORLDS

torch.set_num_threads(1)
SHAPE = PromptShape(3, 4, 2)
LIMIT = 12


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def windows(batch: int, length: int, seed: int = 0) -> Windows:
    g = gen(seed)
    return Windows(
        torch.rand(batch, length, generator=g),
        torch.randn(batch, length, SHAPE.state_dim, generator=g),
        torch.rand(batch, length, SHAPE.action_dim, generator=g) * 2 - 1,
        torch.arange(length).expand(batch, -1),
        torch.ones(batch, length, dtype=torch.bool),
    )


@pytest.fixture
def policy() -> Any:
    sizes = {"width": 16, "layers": 2, "heads": 2, "dropout": 0.0}
    config = TransformerConfig(SHAPE.state_dim, SHAPE.action_dim, LIMIT, prompted=True, **sizes)
    return decision_transformer(config, 0).eval().requires_grad_(False)


def condition(batch: int, seed: int = 1) -> Condition:
    g = gen(seed)
    first = torch.randint(LIMIT - SHAPE.steps, (batch, 1), generator=g)
    return Condition(
        torch.rand(batch, SHAPE.steps, generator=g), first + torch.arange(SHAPE.steps), LIMIT
    )


def prompts(net: Any, batch: int, seed: int = 2) -> Windows:
    g, y = gen(seed), condition(batch)

    def fresh() -> Tensor:
        return torch.randn(batch, SHAPE.dim, generator=g)

    return prompt_of(SHAPE, generated(net, schedule(), y.vector, fresh(), fresh), y)


# -- Eqs. 7, 8: directions ------------------------------------------------------------------------


def test_projection_by_hand() -> None:
    dm, dt = [torch.tensor([3.0, 4.0])], [torch.tensor([1.0, 2.0])]
    [found] = off_the_line(dt, dm)
    torch.testing.assert_close(found, torch.tensor([-0.32, 0.24]))
    [total] = combined("projection", dm, dt)
    torch.testing.assert_close(total, torch.tensor([2.68, 4.24]))
    [half] = combined("projection", dm, dt, lam=0.5)
    torch.testing.assert_close(half, torch.tensor([2.84, 4.12]))


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 40))
def test_projection_is_onto_the_complement(seed: int, n: int) -> None:
    dm, dt = torch.randn(2, n, generator=gen(seed), dtype=torch.float64)
    split = (n + 1) // 2
    parts = [[x[:split].clone(), x[split:].clone()] for x in (dt, dm)]
    found = off_the_line(*parts)
    assert abs(inner(found, parts[1])) <= 1e-6 * flat(parts[0]).norm() * flat(parts[1]).norm()
    again = off_the_line(found, parts[1])
    torch.testing.assert_close(flat(again), flat(found))
    # B B^T with an orthonormal basis of the complement, as the paper writes it
    _, _, V = torch.linalg.svd(dm.unsqueeze(0))
    B = V[1:].T
    torch.testing.assert_close(flat(found), B @ (B.T @ dt), rtol=1e-6, atol=1e-9)


def test_projection_of_parallel_orthogonal_and_nothing() -> None:
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 5.0])
    for parallel in (3 * a, -a):
        torch.testing.assert_close(off_the_line([parallel], [a])[0], torch.zeros(2))
    assert torch.equal(off_the_line([b], [a])[0], b)
    assert torch.equal(off_the_line([b], [torch.zeros(2)])[0], b)


def test_layer_by_layer_spans_the_space() -> None:
    """Of a gradient of rank one it is what lies across its left vector; all energy: its space."""
    u, v = torch.randn(2, 6, generator=gen(), dtype=torch.float64)
    dm, dt = torch.outer(u, v), torch.randn(6, 6, generator=gen(1), dtype=torch.float64)
    [found] = off_the_space([dt], [dm])
    across = dt - torch.outer(u, u @ dt) / (u @ u)
    torch.testing.assert_close(found, across)
    low = torch.randn(6, 3, generator=gen(2), dtype=torch.float64)
    space = low @ torch.randn(3, 6, generator=gen(3), dtype=torch.float64)
    [found] = off_the_space([dt], [space], energy=1.0)
    assert (low.T @ found).abs().max() < 1e-9
    [bias] = off_the_space([torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 4.0])])
    torch.testing.assert_close(bias, torch.tensor([-0.32, 0.24]))
    [untouched] = off_the_space([dt], [torch.zeros_like(dm)])
    torch.testing.assert_close(untouched, dt)


def test_the_energy_says_how_many_directions_are_held() -> None:
    """Squares 90, 9, 1: one holds .9, two .99."""
    dm = torch.diag(torch.tensor([90.0, 9.0, 1.0]).sqrt())
    dt = torch.eye(3)
    for energy, left in ((0.85, [0, 1, 1]), (0.95, [0, 0, 1]), (0.995, [0, 0, 0])):
        [found] = off_the_space([dt], [dm], energy)
        torch.testing.assert_close(found.diag(), torch.tensor(left, dtype=torch.float32))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_only_conflicts_are_projected(sign: float) -> None:
    dm, dt = [torch.tensor([3.0, 4.0])], [sign * torch.tensor([1.0, 2.0])]
    [found] = combined("conflict", dm, dt)
    rule = "sum" if sign > 0 else "projection"
    assert torch.equal(found, combined(rule, dm, dt)[0])


def test_single_losses_and_their_sum() -> None:
    dm, dt = [torch.tensor([3.0, 4.0])], [torch.tensor([1.0, 2.0])]
    assert torch.equal(combined("denoising", dm, dt)[0], dm[0])
    assert torch.equal(combined("guidance", dm, dt)[0], dt[0])
    assert torch.equal(combined("sum", dm, dt)[0], torch.tensor([4.0, 6.0]))
    assert torch.equal(combined("projection", dm, dt, lam=0.0)[0], dm[0])


def test_first_order_a_projected_step_leaves_the_denoising_loss(policy: Any) -> None:
    """Same batch, noise and steps: L_DM changes by O(eta^2) along Proj, by O(eta) along g_DT."""
    net = noise_predictor(SHAPE, 0, hidden=16).double()
    policy = policy.double()
    parameters = list(net.parameters())
    g = gen()
    x0 = torch.randn(8, SHAPE.dim, generator=g, dtype=torch.float64)
    epsilon = torch.randn(8, SHAPE.dim, generator=g, dtype=torch.float64)
    y, i = condition(8).vector.double(), torch.randint(10, (8,), generator=g)

    def loss() -> Tensor:
        return denoising_loss(net, schedule(), x0, y, i, epsilon)

    def fresh() -> Tensor:
        return torch.randn(4, SHAPE.dim, generator=g, dtype=torch.float64)

    cond = replace(condition(4), returns=condition(4).returns.double())
    prompt = prompt_of(
        SHAPE, generated(net, schedule(), cond.vector.double(), fresh(), fresh), cond
    )
    history = windows(4, 4)
    history = replace(
        history,
        returns=history.returns.double(),
        states=history.states.double(),
        actions=history.actions.double(),
    )
    dt = torch.autograd.grad(guidance_loss(policy, history, prompt), parameters)
    dm = torch.autograd.grad(loss(), parameters)

    def change(direction: list[Tensor], eta: float) -> float:
        start = [p.detach().clone() for p in parameters]
        before = loss().item()
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p -= eta * d
        after = loss().item()
        with torch.no_grad():
            for p, s in zip(parameters, start, strict=True):
                p.copy_(s)
        return after - before

    across, size = off_the_line(dt, dm), flat(dt).norm().item()
    eta = 1e-3 / size
    quarter = change(across, eta) / change(across, eta / 2)
    assert quarter == pytest.approx(4.0, rel=0.05)
    assert change(list(dt), eta) / change(list(dt), eta / 2) == pytest.approx(2.0, rel=0.05)


# -- Eqs. 2 to 5: prompts, the chain --------------------------------------------------------------


def test_a_prompt_and_its_vector() -> None:
    prompt, rewards = windows(5, 3), torch.randn(5, 3, generator=gen(4))
    x = SHAPE.vector(prompt.states, prompt.actions, rewards)
    assert x.shape == (5, SHAPE.dim) and SHAPE.dim == 3 * (4 + 2 + 1)
    step = torch.cat((prompt.states[0, 1], prompt.actions[0, 1], rewards[0, 1:2]))
    assert torch.equal(x[0, 7:14], step)  # step by step
    for got, wanted in zip(SHAPE.parts(x), (prompt.states, prompt.actions, rewards), strict=True):
        assert torch.equal(got, wanted)


def test_actions_of_prompts_are_in_the_box_and_the_rest_is_the_conditions() -> None:
    y = condition(4)
    x = 3 * torch.randn(4, SHAPE.dim, generator=gen())
    prompt = prompt_of(SHAPE, x, y)
    assert prompt.actions.abs().max() == 1.0 and prompt.real.all()
    assert torch.equal(prompt.returns, y.returns) and torch.equal(prompt.timesteps, y.timesteps)
    assert torch.equal(prompt.states, SHAPE.parts(x)[0])
    torch.testing.assert_close(y.vector[:, :3], y.returns)
    torch.testing.assert_close(y.vector[:, 3:], y.timesteps / LIMIT)


def test_the_papers_number_of_parameters() -> None:
    net = noise_predictor(PromptShape(5, 20, 6), 0)
    assert sum(p.numel() for p in net.parameters()) == 164_775
    assert schedule().alphas_cumprod[-1] == pytest.approx(0.00641, abs=5e-6)


@pytest.mark.parametrize("n", [1, 5, 10, 20])
def test_the_chain_finds_the_only_prompt(n: int) -> None:
    """With the noise that belongs to one x0 it comes back, from anywhere."""
    noise, x0 = schedule(n), torch.linspace(-2, 2, SHAPE.dim, dtype=torch.float64)
    g = gen()

    def known(x: Tensor, y: Tensor, i: int) -> Tensor:
        bar = noise.alphas_cumprod[i]
        return (x - math.sqrt(bar) * x0) / math.sqrt(1 - bar)

    def fresh() -> Tensor:
        return torch.randn(6, SHAPE.dim, generator=g, dtype=torch.float64)

    found = generated(known, noise, torch.zeros(6, 6), fresh(), fresh)
    torch.testing.assert_close(found, x0.expand(6, -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("n", "variance"), [(10, 0.13268), (20, 0.17166)])
def test_the_chain_of_a_gaussian(n: int, variance: float) -> None:
    """Data N(1, .25) with the optimal noise: mean .99839 at N = 10; few steps lose variance."""
    noise, g = schedule(n), gen()

    def optimal(x: Tensor, y: Tensor, i: int) -> Tensor:
        bar = noise.alphas_cumprod[i]
        return math.sqrt(1 - bar) * (x - math.sqrt(bar)) / (0.25 * bar + 1 - bar)

    def fresh() -> Tensor:
        return torch.randn(200_000, 1, generator=g, dtype=torch.float64)

    found = generated(optimal, noise, torch.zeros(200_000, 0), fresh(), fresh)
    assert found.var().item() == pytest.approx(variance, rel=0.01)
    if n == 10:
        assert found.mean().item() == pytest.approx(0.99839, abs=0.003)


def test_prompts_of_two_tasks_are_told_apart_by_the_condition() -> None:
    """Two Gaussians whose means depend on y: the means come back within .1."""
    shape, noise, g = PromptShape(1, 1, 1), schedule(), gen()
    net = noise_predictor(shape, 0, hidden=64)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    means = torch.tensor([[1.0, -0.5, 0.0], [-1.0, 0.5, 1.0]])
    for step in range(500):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / 500)
        of = torch.randint(2, (256,), generator=g)
        y = torch.stack((of.float(), torch.zeros(256)), 1)
        x0 = means[of] + 0.1 * torch.randn(256, 3, generator=g)
        i, epsilon = torch.randint(10, (256,), generator=g), torch.randn(256, 3, generator=g)
        optimizer.zero_grad()
        denoising_loss(net, noise, x0, y, i, epsilon).backward()
        optimizer.step()

    def fresh() -> Tensor:
        return torch.randn(2_000, 3, generator=g)

    for task in (0, 1):
        y = torch.tensor([[float(task), 0.0]]).expand(2_000, -1)
        with torch.no_grad():
            found = generated(net, noise, y, fresh(), fresh)
        assert (found.mean(0) - means[task]).abs().max() < 0.1
        assert found.std(0).max() < 0.25


# -- Eqs. 1, 6: the policy ------------------------------------------------------------------------


def test_the_guidance_reaches_the_generator_through_all_steps_and_leaves_the_policy(
    policy: Any,
) -> None:
    net = noise_predictor(SHAPE, 0, hidden=16)
    before = {k: v.clone() for k, v in policy.state_dict().items()}
    loss = guidance_loss(policy, windows(4, 4), prompts(net, 4))
    found = torch.autograd.grad(loss, list(net.parameters()))
    assert all(g.abs().sum() > 0 for g in found)
    assert all(torch.equal(v, before[k]) for k, v in policy.state_dict().items())
    assert all(p.grad is None for p in policy.parameters())

    calls = []

    def counted(x: Tensor, y: Tensor, i: int) -> Tensor:
        out = net(x, y, i)
        out.register_hook(lambda g, i=i: calls.append((i, float(g.abs().sum()))))
        return out

    guidance_loss(policy, windows(4, 4), prompts(counted, 4)).backward()
    assert sorted(i for i, _ in calls) == list(range(10))
    assert all(size > 0 for _, size in calls)


def test_a_prompt_that_is_masked_sends_nothing_back(policy: Any) -> None:
    net = noise_predictor(SHAPE, 0, hidden=16)
    prompt = prompts(net, 4)
    absent = replace(prompt, real=torch.zeros_like(prompt.real))
    loss = guidance_loss(policy, windows(4, 4), absent)
    found = torch.autograd.grad(loss, list(net.parameters()), materialize_grads=True)
    assert all(not g.any() for g in found)
    plain = action_loss(policy(windows(4, 4), None), windows(4, 4))
    torch.testing.assert_close(loss, plain)


def test_the_prompt_comes_before_the_history_and_nothing_looks_ahead(policy: Any) -> None:
    history, prompt = windows(3, 5), windows(3, 3, 1)
    before = policy(history, prompt)
    actions = history.actions.clone()
    actions[:, -1] += 0.5
    assert torch.equal(policy(replace(history, actions=actions), prompt), before)
    actions = history.actions.clone()
    actions[:, 2] += 0.5
    changed = policy(replace(history, actions=actions), prompt)
    torch.testing.assert_close(changed[:, :3], before[:, :3])
    assert not torch.allclose(changed[:, 3:], before[:, 3:])
    other = policy(history, replace(prompt, states=prompt.states + 1))
    assert ((other - before).abs().amax((0, 2)) > 1e-6).all()


# -- baselines ------------------------------------------------------------------------------------


def test_a_soft_prompt_begins_as_the_prompt_it_is_made_of(policy: Any) -> None:
    history, prompt = windows(3, 4), windows(1, 3, 1)
    soft = SoftPrompt(policy, prompt)
    repeated = Windows(
        *(getattr(prompt, n).expand(3, *getattr(prompt, n).shape[1:]) for n in FIELDS)
    )
    torch.testing.assert_close(policy(history, soft(3)), policy(history, repeated))
    numbers = DataPrompt(prompt)
    torch.testing.assert_close(policy(history, numbers(3)), policy(history, repeated))
    assert sum(p.numel() for p in soft.parameters()) == 9 * 16
    assert sum(p.numel() for p in numbers.parameters()) == 3 * (1 + 4 + 2)
    guidance_loss(policy, history, soft(3)).backward()
    guidance_loss(policy, history, numbers(3)).backward()
    assert soft.embeddings.grad is not None and soft.embeddings.grad.any()
    assert numbers.numbers.grad is not None and numbers.numbers.grad.any()


FIELDS = ("returns", "states", "actions", "timesteps", "real")


def test_adapters_begin_without_effect_and_alone_are_free(policy: Any) -> None:
    history, prompt = windows(3, 4), windows(3, 3, 1)
    adapted = with_adapters(policy, 0)
    torch.testing.assert_close(adapted(history, prompt), policy(history, prompt))
    free = [n for n, p in adapted.named_parameters() if p.requires_grad]
    assert len(free) == 8 and all(".up." in n or ".down." in n for n in free)
    sizes = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert sizes == 2 * (16 * 4 + 4 + 4 * 16 + 16)
    guidance_loss(adapted, history, prompt).backward()
    assert all(p.grad is None for p in policy.parameters())
    assert adapted.blocks.h[0].up.weight.grad.any()


def test_the_rank_direction_is_the_mean_over_pairs() -> None:
    """By going through all pairs; only the order of losses counts."""
    g = gen(5)
    eps, losses = torch.randn(6, 3, 2, generator=g), torch.rand(6, generator=g)
    pairs = [(i, j) for i in range(6) for j in range(6) if losses[i] < losses[j]]
    wanted = sum(eps[i] - eps[j] for i, j in pairs) / len(pairs)
    torch.testing.assert_close(rank_direction(eps, losses), wanted)
    torch.testing.assert_close(rank_direction(eps, losses.exp()), wanted)


def test_the_rank_direction_descends() -> None:
    x, g = torch.tensor([2.0, -1.0]), gen()
    for _ in range(200):
        eps = torch.randn(8, 2, generator=g)
        losses = (x + 0.05 * eps).square().sum(1)
        x = x + 0.05 * rank_direction(eps, losses)
    assert x.norm() < 0.15


def test_the_regression_control_sees_the_condition_alone() -> None:
    net = noise_predictor(SHAPE, 0, hidden=16)
    y = condition(4)
    found = regressed(net, SHAPE, y.vector)
    assert torch.equal(found, regressed(net, SHAPE, y.vector))  # nothing is drawn
    x0 = torch.randn(4, SHAPE.dim, generator=gen())
    torch.testing.assert_close(
        regression_loss(net, SHAPE, x0, y.vector), (x0 - found).square().mean()
    )


# -- worlds ---------------------------------------------------------------------------------------


def test_the_points_expert_earns_the_closed_form() -> None:
    batch = PointBatch(30.0, np.zeros((2, 2)))
    total = np.zeros(2)
    for _ in range(40):
        push = np.stack([unit(30.0), 5 * unit(30.0)])  # what is longer than one is cut
        total += batch.step(push.astype(np.float32), np.ones(2, bool))[0]
    assert total == pytest.approx([36.0005, 36.0005], abs=1e-3)
    assert Point().references(30.0) == pytest.approx((0.0, 36.0005), abs=1e-4)
    corner = PointBatch(45.0, np.zeros((1, 2)))
    found = corner.step(np.ones((1, 2), np.float32), np.ones(1, bool))[0]
    assert found[0] == pytest.approx(0.2)  # the box's corner is no faster than the expert


def test_point_episodes_are_what_they_are_called() -> None:
    suite = Point()
    by = {q: suite.episodes((60.0,), q, "few", 200)[0] for q in ("expert", "medium", "random")}
    returns = {q: np.mean([e.rewards.sum() for e in of]) for q, of in by.items()}
    assert returns["expert"] > 34 > returns["medium"] > 25 and abs(returns["random"]) < 1.0
    [e] = by["expert"][:1]
    assert e.observations.shape == (41, 4) and not e.observations[0, 2:].any()
    np.testing.assert_allclose(e.rewards, e.observations[1:, 2:] @ unit(60.0), atol=1e-6)
    [other], [again] = (suite.episodes((60.0,), "expert", r, 1)[0] for r in ("train", "few"))
    assert not np.array_equal(other.actions, again.actions)
    np.testing.assert_array_equal(again.actions, e.actions)  # not how many are asked for


def test_the_left_out_quadrant_is_out_of_reach_of_a_training_tasks_prompt() -> None:
    """The mean return of somebody who draws a training task's direction, as a score."""
    from papers.prompt_diffuser.task import TASKS

    train = np.array([unit(g) for g in THREE_QUADRANTS])
    floors = [float((train @ unit(g)).mean()) for g in TASKS["ood-expert"].test]
    assert all(-0.31 < f < -0.24 for f in floors)
    assert max(THREE_QUADRANTS) < 270 < min(TASKS["ood-expert"].test)
    for name in ("point-expert", "tune-expert"):
        assert not set(TASKS[name].test) & set(THREE_QUADRANTS)
    assert not set(TASKS["point-expert"].test) & set(TASKS["tune-expert"].test)


def test_the_cheetah_is_paid_for_the_hidden_goal() -> None:
    envs = {k: Paid(k, g) for k, g in (("velocity", 1.5), ("sign", -1.0))}
    action = np.linspace(-1, 1, 6)
    plain = Paid("velocity", 0.0)
    for env in (*envs.values(), plain):
        assert env.reset(seed=3)[0].shape == (17,)
    paid = {k: env.step(action)[1] for k, env in envs.items()}
    v = -plain.step(action)[1] - 0.05 * np.square(action).sum()  # |v|
    cost = 0.05 * np.square(action).sum()
    signs = [s for s in (1, -1) if paid["sign"] == pytest.approx(-s * v - cost)]
    assert len(signs) == 1
    assert paid["velocity"] == pytest.approx(-abs(signs[0] * v - 1.5) - cost)
    torso = Paid("sign", 1.0, torso=True)
    assert torso.reset(seed=0)[0].shape == (20,)


def test_the_ant_is_paid_along_the_hidden_angle() -> None:
    one, other = Paid("angle", 0.0), Paid("angle", 180.0)
    action = np.full(8, 0.5)
    for env in (one, other):
        assert env.reset(seed=1)[0].shape == (27,)
    a, b = (env.step(action)[1] for env in (one, other))
    # what does not depend on the angle: -.5 |a|^2 - contact + 1
    assert (a + b) / 2 == pytest.approx(1.0 - 0.5 * 8 * 0.25, abs=0.05) and a != b


def test_worlds_have_the_sizes_of_the_paper() -> None:
    assert len(WORLDS["cheetah-vel"].train) == 35 and len(WORLDS["ant-dir"].train) == 45
    assert len(WORLDS["reach-500"].train) == 45 and len(THREE_QUADRANTS) == 24
    for world in ("cheetah-dir", "cheetah-vel"):
        assert (WORLDS[world].suite.state_dim, WORLDS[world].suite.action_dim) == (20, 6)
