"""What is known exactly of VQ-CD: codes, masks, assembling, in-painting, the schedule."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from common.control.denoisers import TemporalUNet
from common.control.diffusion import ddim, epsilon_of
from common.control.sparse import masked, partial_step
from common.stacked import randn, seed_generators
from papers.vq_cd.baselines import (
    FREE,
    KL,
    ContinuousSpace,
    Elastic,
    PaddedSpace,
    ScaledSpace,
    WindowMLP,
    fisher,
    nearest_width,
    packed,
    small_unet,
    weights_of,
)
from papers.vq_cd.method import (
    Paper,
    Preconditioned,
    QuantizedSpace,
    assembled,
    condition,
    draw_masks,
    inverse_loss,
    maskable,
    nearest,
    noise_loss,
    observed,
    perplexity,
    plan,
    schedule,
    share,
    space_loss,
    straight_through,
)

torch.set_num_threads(1)
SEEDS = (0, 4)


def generators(stream: int = 1, seeds: tuple[int, ...] = SEEDS) -> list[torch.Generator]:
    return seed_generators(seeds, stream)


def unet(seeds: tuple[int, ...] = SEEDS, channels: int = 4, given: int = 2) -> TemporalUNet:
    return TemporalUNet(generators(2, seeds), channels, given, 8, (1, 2), embedding=8)


def space(dim: int = 5, **changes: Any) -> QuantizedSpace:
    own: dict[str, Any] = {"codes": 16, "hidden": 8, **changes}
    return QuantizedSpace(generators(3), dim, 3, **own)


# -- quantised spaces -----------------------------------------------------------------------------


def test_codes_are_the_nearest_by_brute_force() -> None:
    points, codes = randn(generators(), 40, 2), randn(generators(2), 16, 2)
    found = nearest(points, codes)
    for s in range(2):
        for p in range(40):
            distances = [float((points[s, p] - c).square().sum()) for c in codes[s]]
            assert int(found[s, p]) == int(np.argmin(distances))
    assert nearest(torch.zeros(1, 1, 2), torch.ones(1, 3, 2)).item() == 0  # a tie


def test_gradients_of_the_space_loss() -> None:
    """Straight-through, commitment and codebook terms by hand; n elements in each mean."""
    made, x = space(), randn(generators(5), 7, 5)
    z_e = made.encoder(x).detach().requires_grad_()
    z_q, index = made.quantized(z_e)
    passed = straight_through(z_e, z_q)
    passed.retain_grad()
    decoded = made.decode(passed)
    reconstruction = (x - decoded).square().mean((1, 2)).sum()
    (wanted,) = torch.autograd.grad(reconstruction, passed, retain_graph=True)
    space_loss(x, decoded, z_e, z_q).sum().backward()
    n = z_e[0].numel()
    torch.testing.assert_close(z_e.grad, wanted + 2 * 0.25 * (z_e - z_q).detach() / n)
    by_hand = torch.zeros_like(made.codes)
    moved = (2 * (z_q - z_e) / n).detach().view(2, -1, 2)
    for s in range(2):
        for p, code in enumerate(index[s].tolist()):
            by_hand[s, code] += moved[s, p]
    torch.testing.assert_close(made.codes.grad, by_hand)
    assert torch.equal(passed, z_q) or torch.allclose(passed, z_q, atol=1e-6)


def test_codes_stay_within_the_bound_after_each_update() -> None:
    made = space(bound=0.5)
    made.after_update()
    assert float(made.codes.detach().abs().max()) == 0.5
    assert space().bound == Paper.bound == 3.0
    assert made.encode(randn(generators(5), 7, 5)).abs().max() <= 0.5


def test_dead_codes_are_put_on_encodings_and_used_ones_stay() -> None:
    made = space()
    with torch.no_grad():
        made.codes[:, 1:] = 2.9  # all but the first are far away
        made.codes[:, 0] = 0.0
    z = 0.1 * randn(generators(6), 30, 6)
    before = made.codes.detach().clone()
    made.revive(z, generators(7))
    assert torch.equal(made.codes[:, 0], before[:, 0])
    points = z.view(2, -1, 2)
    for s in range(2):
        for code in made.codes[s, 1:]:
            assert (points[s] == code).all(-1).any()
    index = nearest(points, made.codes)
    assert (perplexity(index, 16) > 4).all()


def test_perplexity_counts_codes() -> None:
    index = torch.tensor([[0, 1, 2, 3], [5, 5, 5, 5]])
    torch.testing.assert_close(perplexity(index, 8), torch.tensor([4.0, 1.0]).double())


@pytest.mark.parametrize(("d", "latents", "size"), [(3, 10, 20), (17, 10, 20), (6, 5, 10)])
def test_any_space_has_latents_of_one_size(d: int, latents: int, size: int) -> None:
    made = QuantizedSpace(generators(), d, latents, codes=8, hidden=4)
    x = randn(generators(2), 9, d)
    assert made.encode(x).shape == (2, 9, size)
    assert made.decode(made.encode(x)).shape == x.shape
    with pytest.raises(ValueError, match=f"{d} dimensions, not {d + 1}"):
        made.encode(randn(generators(2), 9, d + 1))
    with pytest.raises(ValueError, match="dimensions"):
        made.loss(randn(generators(2), 9, d + 1), generators(3))


def test_continuous_padded_and_scaled_spaces() -> None:
    x = randn(generators(2), 9, 4)
    ae = ContinuousSpace(generators(), 4, 6, hidden=8, kind="ae")
    loss, z = ae.loss(x, generators(3))
    torch.testing.assert_close(loss, (x - ae.decode(ae.encode(x))).square().mean((1, 2)))
    torch.testing.assert_close(z, ae.encode(x))
    vae = ContinuousSpace(generators(), 4, 6, hidden=8, kind="vae")
    told = vae.encoder(x)
    mean, log_var = told[..., :6], told[..., 6:]
    normal = torch.distributions.Normal(mean, (0.5 * log_var).exp())
    divergence = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    drawn = mean + (0.5 * log_var).exp() * randn(generators(3), 9, 6)
    wanted = (x - vae.decode(drawn)).square().mean((1, 2)) + KL * divergence.sum(-1).mean(1)
    torch.testing.assert_close(vae.loss(x, generators(3))[0], wanted)
    torch.testing.assert_close(vae.encode(x), mean)
    padded = PaddedSpace(4, 6)
    assert padded.encode(x)[..., 4:].eq(0).all() and torch.equal(padded.decode(padded.encode(x)), x)
    mean, std = ae.encode(x).mean(1, keepdim=True), ae.encode(x).std(1, keepdim=True)
    scaled = ScaledSpace(ae, mean, std)
    torch.testing.assert_close(scaled.encode(x).std(1), torch.ones(2, 6))
    torch.testing.assert_close(scaled.decode(scaled.encode(x)), ae.decode(ae.encode(x)))


# -- masks ----------------------------------------------------------------------------------------


def test_masks_are_disjoint_whole_and_of_equal_size() -> None:
    net = unet()
    masks = draw_masks(maskable(net), 3, generators(8))
    for name, w in maskable(net).items():
        stacked = torch.stack([m[name] for m in masks]).int()
        assert (stacked.sum(0) == 1).all()  # pairwise disjoint, together everything
        n = w[0].numel()
        for task in range(3):
            assert (stacked[task].flatten(1).sum(1) == share(n, task, 3)).all()
    assert [share(11, i, 3) for i in range(3)] == [4, 4, 3]
    again = draw_masks(maskable(net), 3, generators(8))
    assert all(torch.equal(a[n], b[n]) for a, b in zip(masks, again, strict=True) for n in a)
    alone = draw_masks(maskable(unet((4,))), 3, generators(8, (4,)))
    assert all(torch.equal(a[n][1:], b[n]) for a, b in zip(masks, alone, strict=True) for n in a)
    other = draw_masks(maskable(net), 3, generators(8, (1, 2)))
    assert any(not torch.equal(masks[0][n], other[0][n]) for n in masks[0])


def test_masks_are_over_matrices_or_kernels_alone() -> None:
    net = unet()
    everything = maskable(net)
    kernels = maskable(net, convolutions_only=True)
    assert set(kernels) < set(everything) < set(dict(net.named_parameters()))
    assert all(".map.weight" in name for name in kernels)
    assert not any("bias" in name or "norms" in name for name in everything)
    rest = set(dict(net.named_parameters())) - set(everything)
    assert all("bias" in name or "norms" in name for name in rest)


def trained_steps(
    net: TemporalUNet, mask: dict[str, Tensor], optimizer: torch.optim.Optimizer, steps: int
) -> None:
    """Dense steps of a loss under a mask (Eq. 5)."""
    drawing = generators(9)
    for _ in range(steps):
        parameters = dict(net.named_parameters())
        weights = {**parameters, **masked(parameters, mask)}
        x, given = randn(drawing, 4, 8, 4), randn(drawing, 4, 2)
        found = functional_call(net, weights, (x, 3, given))
        optimizer.zero_grad(set_to_none=True)
        (found - x).square().mean().backward()
        for name, m in mask.items():
            gradient = parameters[name].grad
            assert gradient is not None and (gradient[~m] == 0).all()
        optimizer.step()


@pytest.mark.parametrize(
    ("name", "stays"),
    [("sgd", True), ("adam, reset", True), ("adam", False), ("momentum", False), ("decay", False)],
)
def test_dense_steps_move_other_tasks_weights_and_assembling_undoes_it(
    name: str, stays: bool
) -> None:
    net = unet()
    masks = draw_masks(maskable(net), 3, generators(8))
    make: dict[str, Any] = {
        "sgd": lambda p: torch.optim.SGD(p, 1e-2),
        "momentum": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9),
        "decay": lambda p: torch.optim.SGD(p, 1e-2, weight_decay=0.1),
    }
    build = make.get(name, lambda p: torch.optim.Adam(p, 1e-3))
    optimizer, checkpoints = build(net.parameters()), []
    for mask in masks:
        if name == "adam, reset":
            optimizer = build(net.parameters())
        trained_steps(net, mask, optimizer, 4)
        checkpoints.append({n: w.detach().clone() for n, w in maskable(net).items()})
    moved = max(
        float((checkpoints[2][n] - checkpoints[0][n])[m].abs().max()) for n, m in masks[0].items()
    )
    assert (moved == 0) is stays
    whole = assembled(masks, checkpoints)
    x, given = randn(generators(10), 4, 8, 4), randn(generators(11), 4, 2)
    parameters = dict(net.named_parameters())
    for mask, checkpoint in zip(masks, checkpoints, strict=True):
        outputs = [
            functional_call(net, {**parameters, **masked(w, mask)}, (x, 7, given))
            for w in (whole, checkpoint)
        ]
        assert torch.equal(*outputs)
        assert all(torch.equal(whole[n][m], checkpoint[n][m]) for n, m in mask.items())


def test_one_task_has_every_weight() -> None:
    net = unet()
    (mask,) = draw_masks(maskable(net), 1, generators(8))
    assert all(m.all() for m in mask.values())
    x, given = randn(generators(10), 4, 8, 4), randn(generators(11), 4, 2)
    parameters = dict(net.named_parameters())
    under = functional_call(net, {**parameters, **masked(parameters, mask)}, (x, 7, given))
    assert torch.equal(under, net(x, 7, given))


# -- the planner ----------------------------------------------------------------------------------


def test_schedule_is_the_cosine_one() -> None:
    for steps, first, last in ((100, 0.99936872, 2.4e-7), (200, 0.99974503, 6.1e-8)):
        bar = schedule(steps).alphas_cumprod
        assert bar[0] == pytest.approx(first, abs=1e-8)
        assert bar[-1] == pytest.approx(last, rel=0.02)
        assert (np.diff(bar) < 0).all()
        assert float(schedule(steps).betas.max()) <= 0.999


@pytest.mark.parametrize(("steps", "tolerance"), [(1, 4e-3), (5, 1e-5), (10, 1e-5)])
def test_ddim_with_the_known_noise_returns_the_point(steps: int, tolerance: float) -> None:
    point, of = 2.5 * torch.tanh(randn(generators(), 3, 8, 4)), schedule()
    start = randn(generators(2), 3, 8, 4)
    found = ddim(lambda x, n: epsilon_of(of, x, point, n), start, of, steps, clip=3.0)
    torch.testing.assert_close(found, point, atol=tolerance, rtol=0)


def planned(omega: float, seen: list[Tensor] | None = None, **changes: Any) -> Tensor:
    """A plan of a net that tells its condition, with what it was asked."""
    z, noise = randn(generators(), 3, 4), randn(generators(2), 3, 8, 6)
    given = condition(torch.full((2, 3), 0.95), torch.ones(2, 3))
    nothing = condition(torch.full((2, 3), 0.95), torch.zeros(2, 3))
    net = unet(channels=6)

    def denoise(x: Tensor, n: Any, c: Tensor) -> Tensor:
        if seen is not None:
            assert x.shape[1] == 6 and torch.equal(x[:, :3], x[:, 3:])
            assert torch.equal(x[:, :3, 0, :4], z)
            seen.append(torch.tensor([n]))
        return net(x, n, c)

    with torch.no_grad():
        found = plan(denoise, z, noise, given, nothing, schedule(), omega=omega, **changes)
    assert torch.equal(found[:, :, 0, :4], z)
    return found


def test_the_current_state_is_written_over_at_every_step() -> None:
    seen: list[Tensor] = []
    planned(1.2, seen)
    assert [int(n) + 1 for n in seen] == list(range(200, 0, -20))  # k of Algorithm 2


def test_guidance_of_0_and_1_is_unconditional_and_conditional() -> None:
    z, noise = randn(generators(), 3, 4), randn(generators(2), 3, 8, 6)
    net, of = unet(channels=6), schedule()
    for omega, kept in ((0.0, 0.0), (1.0, 1.0)):
        given = condition(torch.full((2, 3), 0.95), torch.full((2, 3), kept))

        def project(x: Tensor) -> Tensor:
            x = x.clone()
            x[:, :, 0, :4] = z
            return x

        with torch.no_grad():
            wanted = ddim(
                lambda x, n, g=given: net(x, n, g), noise, of, 10, clip=3.0, project=project
            )
        torch.testing.assert_close(planned(omega), wanted, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(planned(0.0), planned(1.2), atol=1e-3)


def test_a_dropped_return_is_not_a_return_of_0() -> None:
    returns, kept = torch.tensor([[0.0, 0.7, 0.7]]), torch.tensor([[1.0, 1.0, 0.0]])
    told = torch.eye(2)[0].expand(1, 3, 2)
    found = condition(returns, kept, told)
    expected = torch.tensor([[[0.0, 1, 1, 0], [0.7, 1, 1, 0], [0, 0, 1, 0]]])
    assert torch.equal(found, expected)


def test_the_noise_loss_is_equation_1() -> None:
    x, noise, of = randn(generators(), 5, 8, 6), randn(generators(2), 5, 8, 6), schedule()
    n, given = torch.tensor([[0, 20, 199, 7, 3], [1, 2, 3, 4, 5]]), torch.zeros(2, 5, 2)
    bar = torch.from_numpy(of.alphas_cumprod).float()
    seen = {}

    def denoise(tau: Tensor, at: Any, c: Tensor) -> Tensor:
        seen["tau"] = tau
        return 0.3 * noise + 1.0

    found = noise_loss(denoise, x, n, noise, given, of)
    b = bar[n].view(2, 5, 1, 1)
    torch.testing.assert_close(seen["tau"], b.sqrt() * x + (1 - b).sqrt() * noise)
    torch.testing.assert_close(found, (0.7 * noise - 1.0).square().mean((1, 2, 3)))
    clean = observed(x, 4)
    assert int(clean.sum()) == 4
    found = noise_loss(denoise, x, n, noise, given, of, clean=clean)
    assert torch.equal(seen["tau"][:, :, 0, :4], x[:, :, 0, :4])
    torch.testing.assert_close(found, (0.7 * noise - 1.0).square()[:, :, ~clean].mean((1, 2)))


def test_inverse_dynamics_tell_the_action_between_two_states() -> None:
    z, actions = randn(generators(), 5, 8, 4), randn(generators(2), 5, 8, 3)

    class Difference(torch.nn.Module):
        def forward(self, pairs: Tensor) -> Tensor:
            return (pairs[..., 4:] - pairs[..., :4])[..., :3]

    wanted = (actions[:, :, :-1] - (z[:, :, 1:] - z[:, :, :-1])[..., :3]).square().mean((1, 2, 3))
    found = inverse_loss(Difference(), z[:, :, :-1], z[:, :, 1:], actions[:, :, :-1])
    torch.testing.assert_close(found, wanted)


def test_preconditioning_is_exact_for_noise_alone_and_a_velocity_for_the_rest() -> None:
    """eps from v = sqrt(abar) eps - sqrt(1 - abar) x_0; x_0 of an error stays small at step K."""
    x0, noise, of = randn(generators(), 5, 8, 4), randn(generators(2), 5, 8, 4), schedule()
    bar = torch.from_numpy(of.alphas_cumprod).float()

    class Velocity(torch.nn.Module):
        def forward(self, x: Tensor, n: Tensor, given: Tensor) -> Tensor:
            b = bar[torch.as_tensor(n)].view(-1, 1, 1, 1) if isinstance(n, int) else bar[n]
            b = b.view(*b.shape[:2], 1, 1)
            return b.sqrt() * noise - (1 - b).sqrt() * x0 + 0.1

    net, given = Preconditioned(Velocity(), 200), torch.zeros(2, 5, 2)
    n = torch.tensor([[0, 20, 199, 7, 3], [1, 2, 3, 4, 5]])
    b = bar[n].view(2, 5, 1, 1)
    tau = b.sqrt() * x0 + (1 - b).sqrt() * noise
    torch.testing.assert_close(net(tau, n, given), noise + 0.1 * b.sqrt())
    last = bar[199]
    tau = last.sqrt() * x0 + (1 - last).sqrt() * noise
    told = epsilon_of(of, tau, (tau - (1 - last).sqrt() * net(tau, 199, given)) / last.sqrt(), 199)
    torch.testing.assert_close(told, net(tau, 199, given), atol=1e-5, rtol=0)
    found = (tau - (1 - last).sqrt() * net(tau, 199, given)) / last.sqrt()
    torch.testing.assert_close(found, x0 - 0.1, atol=5e-3, rtol=0)
    assert set(maskable(Preconditioned(unet(), 200))) == {f"net.{k}" for k in maskable(unet())}


# -- baselines ------------------------------------------------------------------------------------


def test_elastic_penalty_is_the_sum_of_the_tasks() -> None:
    theta = {"w": randn(generators(), 6)}
    tasks = [
        ({"w": randn(generators(k), 6).square()}, {"w": randn(generators(9 + k), 6)})
        for k in (1, 2)
    ]
    tasks[0][0]["w"][0, 0] = tasks[1][0]["w"][0, 0] = 0.0  # what no task needs is free
    elastic = Elastic(theta)
    for f, anchor in tasks:
        elastic.add(f, anchor)
    wanted = sum(3.0 * f["w"] * (theta["w"] - anchor["w"]) for f, anchor in tasks)
    torch.testing.assert_close(elastic.gradient(theta, 3.0)["w"], wanted)
    again = Elastic(theta)
    again.load(copy.deepcopy(elastic.state()))
    assert torch.equal(again.gradient(theta, 3.0)["w"], elastic.gradient(theta, 3.0)["w"])


def test_fisher_information_of_a_known_loss() -> None:
    w = torch.nn.Parameter(torch.tensor([[2.0], [3.0]]))
    scales = iter([1.0, 2.0])
    found = fisher(lambda: next(scales) * w.squeeze(1), {"w": w, "u": torch.nn.Parameter(w + 1)}, 2)
    torch.testing.assert_close(found["w"], torch.full((2, 1), 2.5))  # (1 + 4) / 2 for each seed
    assert found["u"].eq(0).all()


def test_packnet_takes_the_largest_free_weights() -> None:
    weight = torch.tensor([[3.0, -5.0, 1.0, 0.5, 2.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    owner = torch.full_like(weight, FREE, dtype=torch.int8)
    first = packed(weight, owner, 0, 2)
    assert first.tolist() == [[0, 0, -1, -1, -1], [-1, -1, -1, 0, 0]]
    second = packed(weight, first, 1, 3)
    assert second.tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]]


def test_a_masked_step_leaves_other_weights() -> None:
    net = unet()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    mask = draw_masks(maskable(net), 3, generators(8))[0]
    optimizer = torch.optim.Adam(net.parameters(), 1e-2, weight_decay=0.1)
    net(randn(generators(), 2, 8, 4), 3, torch.zeros(2, 2, 2)).sum().backward()
    partial_step(optimizer, [(w, mask[n]) for n, w in maskable(net).items()])  # type: ignore[misc]
    for name, w in maskable(net).items():
        assert torch.equal(w[~mask[name]], before[name][~mask[name]])


@pytest.mark.parametrize(("width", "n_tasks"), [(16, 2), (32, 3), (64, 3), (32, 10)])
def test_small_networks_have_their_share_of_the_weights(width: int, n_tasks: int) -> None:
    one = [torch.Generator()]
    whole = TemporalUNet(one, 20, 2, width, (1, 2))
    small = small_unet(one, 20, 2, width, (1, 2), n_tasks)
    assert weights_of(small) == pytest.approx(weights_of(whole) / n_tasks, rel=0.06)


def test_the_mlp_has_as_many_weights_as_the_unet() -> None:
    one = [torch.Generator()]
    wanted = weights_of(TemporalUNet(one, 20, 2, 32, (1, 2)))
    width = nearest_width(lambda w: WindowMLP(one, 8, 20, 2, w), wanted, range(16, 400, 16))
    net = WindowMLP(generators(), 8, 20, 2, width)
    assert weights_of(net) == pytest.approx(wanted, rel=0.1)
    x = randn(generators(), 3, 8, 20)
    assert net(x, 4, torch.zeros(2, 3, 2)).shape == x.shape


def test_settings_are_those_of_table_3() -> None:
    assert (Paper.codes, Paper.state_latents, Paper.action_latents, Paper.code_dim) == (
        512,
        10,
        5,
        2,
    )
    assert (Paper.diffusion_steps, Paper.acting_steps, Paper.horizon) == (200, 10, 8)
    assert (Paper.dropout, Paper.omega, Paper.target, Paper.gamma) == (0.25, 1.2, 0.95, 0.99)
    assert math.isclose(Paper.commitment, 0.25) and Paper.batch == 32
