"""Stacked networks and averages of parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.ema import Ema
from common.stacked import (
    MLP,
    StackedLayerNorm,
    StackedLinear,
    Swish,
    rademacher,
    randint,
    randn,
    seed_generators,
    zeros,
)


@pytest.mark.parametrize("activation", [F.silu, "swish"])
def test_a_stack_holds_the_networks_of_its_seeds(activation) -> None:
    both = MLP(seed_generators([3, 5], 1), [4, 8, 8, 2], activation)
    x = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    out = both(x)
    for i, seed in enumerate([3, 5]):
        one = MLP(seed_generators([seed], 1), [4, 8, 8, 2], activation)
        torch.testing.assert_close(one(x[i : i + 1])[0], out[i])
    torch.testing.assert_close(both(x.unflatten(1, (2, 3))), out.unflatten(1, (2, 3)))


def test_mlp_is_its_layers_by_hand() -> None:
    net = MLP(seed_generators([0], 1), [3, 5, 2], F.relu)
    first, last = (m for m in net.layers if isinstance(m, StackedLinear))
    x = torch.randn(1, 7, 3, generator=torch.Generator().manual_seed(0))
    hidden = torch.relu(x[0] @ first.weight[0] + first.bias[0])
    torch.testing.assert_close(net(x)[0], hidden @ last.weight[0] + last.bias[0])


def test_initialisers_fill_each_seed() -> None:
    layer = StackedLinear(seed_generators([0, 1], 1), 6, 6, nn.init.orthogonal_, zeros)
    for w in layer.weight:
        torch.testing.assert_close(w @ w.T, torch.eye(6), rtol=0, atol=1e-5)
    assert not torch.equal(layer.weight[0], layer.weight[1])
    assert layer.bias.abs().max() == 0
    net = MLP(seed_generators([0], 1), [2, 4, 3], last_init=zeros)
    assert net.layers[-1].weight.abs().max() == 0 and net.layers[-1].bias.abs().max() > 0


def test_layer_norm_and_swish_are_pytorchs_at_the_start() -> None:
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(StackedLayerNorm(2, 8)(x), nn.LayerNorm(8)(x))
    torch.testing.assert_close(Swish(2, 8)(x), F.silu(x))
    assert [tuple(p.shape) for p in Swish(2, 8).parameters()] == [(2, 1, 8)]


def test_draws_belong_to_their_seed() -> None:
    for draw in (
        lambda g: randn(g, 3, 2),
        lambda g: randint(g, 10, 50).float(),
        lambda g: rademacher(g, 40),
    ):
        together, alone = draw(seed_generators([7, 8], 2)), draw(seed_generators([8], 2))
        assert torch.equal(together[1], alone[0]) and not torch.equal(together[0], together[1])
    signs = rademacher(seed_generators([0], 2), 1000)
    assert set(signs.unique().tolist()) == {-1.0, 1.0} and abs(signs.mean().item()) < 0.1


def test_ema_warms_up_swaps_and_resumes() -> None:
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    ema = Ema([p], decay=0.9)
    by_hand = torch.zeros(3, dtype=torch.float64)
    for n in range(200):
        with torch.no_grad():
            p.add_(1.0)
        ema.update()
        m = min(0.9, (1 + n) / (10 + n))
        by_hand = m * by_hand + (1 - m) * p.detach()
        if n == 100:
            kept = ema.state_dict()
            kept["averages"] = [a.clone() for a in kept["averages"]]
    torch.testing.assert_close(ema.averages[0], by_hand)
    with ema.swapped():
        torch.testing.assert_close(p.detach(), by_hand)
    assert p[0].item() == 200
    fresh = Ema([p], decay=0.9)
    fresh.load_state_dict(kept)
    assert fresh.updates == 101 and torch.equal(fresh.averages[0], kept["averages"][0])
    constant = Ema([nn.Parameter(torch.zeros(1))], decay=0.5, warm_up=False)
    with torch.no_grad():
        constant.parameters[0].fill_(1.0)
    constant.update()
    assert constant.averages[0].item() == 0.5
