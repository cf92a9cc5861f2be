"""Denoising networks: layers are PyTorch's, seeds do not see each other, conditions count."""

import pytest
import torch
from torch.nn import functional as F

from common.control.denoisers import (
    GroupNorm,
    ResidualMLP,
    StackedConv1d,
    TemporalUNet,
    sinusoids,
)
from common.control.diffusion import ddim, ddpm, dpm_solver, noised, vp_schedule
from common.stacked import adam, randint, randn, seed_generators
from tests.fake_cuda import fake_cuda

SEEDS = (3, 5)


def generators(seeds=SEEDS):
    return seed_generators(seeds, 1)


@pytest.mark.parametrize(("kernel", "stride"), [(5, 1), (3, 2), (1, 1)])
def test_a_stacked_convolution_is_pytorchs(kernel, stride):
    conv = StackedConv1d(generators(), 4, 6, kernel, stride)
    x = torch.randn(2, 3, 8, 4, generator=torch.Generator().manual_seed(0))
    out = conv(x)
    for s in range(2):
        weight = conv.map.weight[s].T.reshape(6, 4, kernel)
        wanted = F.conv1d(
            x[s].transpose(1, 2), weight, conv.map.bias[s, 0], stride, padding=kernel // 2
        )
        torch.testing.assert_close(out[s], wanted.transpose(1, 2), rtol=1e-5, atol=1e-5)


def test_group_norm_is_pytorchs():
    norm = GroupNorm(2, 16)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, 32).view(2, 1, 1, 16))
        norm.bias.copy_(torch.linspace(-1, 1, 32).view(2, 1, 1, 16))
    x = 3 + 2 * torch.randn(2, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    for s in range(2):
        wanted = F.group_norm(
            x[s].transpose(1, 2), 8, norm.weight[s].flatten(), norm.bias[s].flatten()
        )
        torch.testing.assert_close(norm(x)[s], wanted.transpose(1, 2), rtol=1e-5, atol=1e-5)


def test_sinusoids_by_hand():
    found = sinusoids(torch.tensor([0, 2]), 4, longest=100.0)
    wanted = [[0, 0, 1, 1], torch.tensor([2, 0.02, 2, 0.02]).sin().tolist()]
    assert found[0].tolist() == wanted[0]
    torch.testing.assert_close(found[1, :2], torch.tensor(wanted[1][:2]))
    torch.testing.assert_close(found[1, 2:], torch.tensor([2, 0.02]).cos())


def nets(seeds=SEEDS):
    return {
        "mlp": (ResidualMLP(generators(seeds), 6, 2, width=16, blocks=2), (4, 6)),
        "unet": (TemporalUNet(generators(seeds), 6, 2, width=8, multipliers=(1, 2)), (4, 8, 6)),
    }


@pytest.mark.parametrize("name", ["mlp", "unet"])
def test_stacked_seeds_are_the_seeds_alone(name):
    net, shape = nets()[name]
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, *shape, generator=g)
    condition = torch.randn(2, 4, 2, generator=g)
    step = torch.randint(50, (2, 4), generator=g)
    out = net(x, step, condition)
    assert out.shape == x.shape
    for s, seed in enumerate(SEEDS):
        alone = nets((seed,))[name][0](x[s : s + 1], step[s : s + 1], condition[s : s + 1])
        torch.testing.assert_close(out[s], alone[0], rtol=1e-4, atol=1e-5)
    out[0].square().sum().backward()
    assert all((p.grad[1] == 0).all() and (p.grad[0] != 0).any() for p in net.parameters())


@pytest.mark.parametrize("name", ["mlp", "unet"])
def test_rows_depend_on_their_own_step_and_condition(name):
    net, shape = nets()[name]
    g = torch.Generator().manual_seed(0)
    x, condition = torch.randn(2, *shape, generator=g), torch.randn(2, 4, 2, generator=g)
    before = net(x, 7, condition)
    assert torch.equal(before, net(x, torch.full((4,), 7), condition))
    steps = torch.full((4,), 7)
    steps[2] = 9
    other = condition.clone()
    other[:, 1] += 1
    for changed, row in ((net(x, steps, condition), 2), (net(x, 7, other), 1)):
        rows = [r for r in range(4) if r != row]
        torch.testing.assert_close(changed[:, rows], before[:, rows], rtol=1e-5, atol=1e-6)
        assert ((changed[:, row] - before[:, row]).abs().amax(-1) > 1e-4).all()


def test_conditional_means_are_learned():
    """Two Gaussians told apart by the condition; the mean of each within .1."""
    schedule, means = vp_schedule(10, 0.1, 10.0), torch.tensor([-0.8, 0.6])
    g = seed_generators((0,), 2)
    net = ResidualMLP(generators((0,)), 1, 1, width=32, blocks=1)
    optimizer = adam([{"params": list(net.parameters())}], lr=3e-3)
    for _ in range(500):
        y = randint(g, 2, 128)
        x0 = means[y].unsqueeze(-1) + 0.2 * randn(g, 128, 1)
        n, epsilon = randint(g, 10, 128), randn(g, 128, 1)
        predicted = net(noised(schedule, x0, epsilon, n), n, y.float().unsqueeze(-1))
        optimizer.zero_grad()
        (predicted - epsilon).square().mean().backward()
        optimizer.step()
    y = torch.tensor([0.0, 1.0]).repeat_interleave(500).view(1, 1000, 1)
    with torch.no_grad():
        x = ddpm(lambda x, n: net(x, n, y), randn(g, 1000, 1), schedule, lambda: randn(g, 1000, 1))
    found = x.view(2, 500).mean(1)
    assert (found - means).abs().max() < 0.1, found


@pytest.mark.parametrize("name", ["mlp", "unet"])
def test_training_and_sampling_stay_on_their_device(name):
    schedule = vp_schedule(20)

    def one_step_on(device):
        net, shape = nets()[name]
        net = net.to(device)
        optimizer = adam([{"params": list(net.parameters())}])
        g = torch.Generator().manual_seed(0)
        x0, noise = (torch.randn(2, *shape, generator=g).to(device) for _ in range(2))
        condition = torch.randn(2, 4, 2, generator=g).to(device)
        n = torch.randint(20, (2, 4), generator=g).to(device)
        loss = (net(noised(schedule, x0, noise, n), n, condition) - noise).square().mean()
        loss.backward()
        optimizer.step()

        def denoise(x, n):
            return net(x, n, condition)

        with torch.no_grad():
            found = [ddpm(denoise, noise, schedule, lambda: x0)]
            found += [ddim(denoise, noise, schedule, 4), dpm_solver(denoise, noise, schedule, 5)]
        return [x.cpu() for x in found]

    here = one_step_on("cpu")
    with fake_cuda():
        torch.use_deterministic_algorithms(True)  # as every run does
        there = one_step_on("cuda")
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
