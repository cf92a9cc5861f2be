"""The point-cloud encoder and the U-Net, with tiny widths; the paper's sizes on the meta device."""

from types import SimpleNamespace

import pytest
import torch

from papers.ofp.networks import make_network, unstack
from papers.ofp.networks_large import PointNet, UNet


def make_task(points=16, state=8, frames=2, name="dp3-metaworld"):
    return SimpleNamespace(
        name=name,
        encoder="pointnet",
        points=points,
        obs_frames=frames,
        obs_dim=frames * (3 * points + state),
        horizon=4,
        action_dim=3,
    )


def generators(*seeds):
    return [torch.Generator().manual_seed(s) for s in seeds]


def make_unet(seeds=(0, 1), **options):
    task = make_task()
    encoder = PointNet(task, 6, generators(*seeds), widths=(8, 8, 16), n_cloud=8)
    net = UNet(
        encoder, task, 6, generators(*seeds), channels=(16, 24, 32), groups=8, n_time=16, **options
    )
    return task, net


def inputs(task, seeds=2, batch=5):
    g = torch.Generator().manual_seed(9)
    z = torch.randn(seeds, batch, task.horizon * task.action_dim, generator=g)
    t = torch.rand(seeds, batch, 1, generator=g) * 0.5
    r = t + torch.rand(seeds, batch, 1, generator=g) * 0.5
    obs = torch.randn(seeds, batch, task.obs_dim, generator=g)
    return z, t, r, obs, torch.zeros(seeds, batch, 1)


def test_unet_shapes_and_both_times_condition_and_null_matter():
    task, net = make_unet()
    z, t, r, obs, null = inputs(task)
    c = net.encode(obs)
    assert c.shape == (2, 5, 6)
    u = net(z, t, r, c, null)
    assert u.shape == z.shape
    assert not torch.allclose(u, net(z, t + 0.1, r + 0.1, c, null), atol=1e-4)  # t, same gap
    assert not torch.allclose(u, net(z, t, r + 0.1, c, null), atol=1e-4)  # r - t, same t
    assert not torch.allclose(u, net(z, t, r, c + 1, null), atol=1e-4)
    dropped = net(z, t, r, c, null + 1)
    assert not torch.allclose(u, dropped, atol=1e-4)
    assert torch.equal(dropped, net(z, t, r, c + 1, null + 1))  # ø replaces c altogether


def test_every_parameter_of_every_seed_gets_a_gradient():
    task, net = make_unet()
    z, t, r, obs, null = inputs(task)
    null[:, 0] = 1.0
    net(z, t, r, net.encode(obs), null).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert len(parameter) == 2, name
        assert (parameter.grad.flatten(1).norm(dim=1) > 0).all(), name


def test_stacked_seeds_do_not_touch_each_other_and_can_be_taken_out():
    """In float64: convolutions of one seed and of two round too differently in float32."""
    task, net = make_unet()
    net = net.double()
    z, t, r, obs, null = (x.double() for x in inputs(task))
    both = net(z, t, r, net.encode(obs), null)
    one = unstack(net, 1)
    alone = one(z[1], t[1], r[1], one.encode(obs[1]), null[1])
    torch.testing.assert_close(both[1], alone)
    assert not torch.allclose(both[1], both[0], atol=1e-2)
    _, single = make_unet(seeds=(1,))
    single = single.double()
    same = single(z[1:], t[1:], r[1:], single.encode(obs[1:]), null[1:])
    torch.testing.assert_close(both[1:], same)


def test_pointnet_ignores_the_order_of_points_but_not_their_places_or_the_state():
    task = make_task(frames=1)
    net = PointNet(task, 6, generators(0), widths=(8, 8, 16), n_cloud=8)
    obs = torch.randn(1, 4, task.obs_dim, generator=torch.Generator().manual_seed(1))
    c = net(obs)
    cloud = obs[..., : 3 * task.points].view(1, 4, task.points, 3).flip(2).flatten(2)
    shuffled = torch.cat((cloud, obs[..., 3 * task.points :]), -1)
    assert torch.allclose(net(shuffled), c, atol=1e-6)
    assert not torch.allclose(net(obs + 0.1), c, atol=1e-4)
    moved = obs.clone()
    moved[..., -1] += 1
    assert not torch.allclose(net(moved), c, atol=1e-4)


def test_the_papers_sizes():
    with torch.device("meta"):
        task = make_task(points=512, state=8 + 49)
        # generators live on the CPU; the meta device needs none
        net = UNet(PointNet(task, 64, [None]), task, 64, [None])
    count = sum(p.numel() for p in net.parameters())
    assert 100e6 < count < 300e6
    levels = [net.down[i][0].first.conv.weight.shape[1] for i in range(3)]
    assert levels == [512, 1024, 2048]
    assert net.down[0][0].first.conv.weight.shape[-1] == 5


def test_horizon_must_fit_the_levels():
    task = make_task()
    task.horizon = 6
    with pytest.raises(ValueError, match="divisible by 4"):
        UNet(PointNet(task, 6, generators(0)), task, 6, generators(0), channels=(8, 8, 8))


def test_make_network_gives_experiment_c_its_encoder():
    task = make_task(frames=1, name="pointcloud")
    net = make_network(task, (0, 1))
    obs = torch.randn(2, 3, task.obs_dim)
    z, t = torch.randn(2, 3, 12), torch.rand(2, 3, 1)
    assert net(z, t, t, net.encode(obs), torch.zeros(2, 3, 1)).shape == z.shape
