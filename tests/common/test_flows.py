"""Flows: determinants against autograd's Jacobians, inverses, and a library's coupling."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from common.flows import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    Atanh,
    Flow,
    Layer,
    Linear,
    Scale,
    SmoothLeakyReLU,
)
from common.stacked import MLP, randn, seed_generators

SEEDS = [0, 1]
DIM, CONTEXT = 4, 3


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def net(stream: int, n_in: int, n_out: int = DIM) -> MLP:
    return MLP(seed_generators(SEEDS, stream), [n_in, 8, n_out], torch.tanh)


class Single(nn.Module):
    """A stack of one seed as an ordinary network."""

    def __init__(self, net: MLP) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.unsqueeze(0))[0]


def layers(context: bool) -> list[Layer]:
    n_in = DIM + (CONTEXT if context else 0)
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0])
    act_norm = ActNorm(2, DIM)
    act_norm.initialise(2 * randn(seed_generators(SEEDS, 9), 50, DIM) + 1)
    made: list[Layer] = [
        Linear(seed_generators(SEEDS, 1), DIM, nn.init.orthogonal_),
        AffineCoupling(mask, net(2, n_in), net(3, n_in)),
        act_norm,
        SmoothLeakyReLU(0.3),
        AdditiveCoupling(1 - mask, net(4, n_in)),
        SmoothLeakyReLU(0.3, residual=True),
        Linear(seed_generators(SEEDS, 5), DIM),
    ]
    return [*made, Scale(net(6, CONTEXT))] if context else made


@pytest.mark.parametrize("context", [False, True])
def test_determinants_are_those_of_the_jacobian(context: bool) -> None:
    flow = Flow(layers(context))
    x = randn(seed_generators(SEEDS, 7), 5, DIM)
    c = randn(seed_generators(SEEDS, 8), 5, CONTEXT) if context else None
    u, rest, constant = flow.split(x, c)
    for s in range(2):
        for b in range(5):

            def one(at: Tensor, s: int = s, b: int = b) -> Tensor:
                wide = x.clone()
                wide[s, b] = 0
                wide = wide + torch.zeros_like(x).index_put(
                    (torch.tensor([s]), torch.tensor([b])), at.unsqueeze(0)
                )
                return flow(wide, c)[0][s, b]

            full = torch.autograd.functional.jacobian(one, x[s, b])
            expected = torch.linalg.slogdet(full).logabsdet
            got = rest[s, b] + constant[s].expand(5)[b]
            torch.testing.assert_close(got, expected)
    torch.testing.assert_close(flow.inverse(u, c), x, rtol=1e-6, atol=1e-6)


def test_forward_computes_no_constant_determinant(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Flow(layers(context=False))

    def forbidden(*args: object) -> None:
        raise AssertionError("a determinant of a constant layer was computed")

    monkeypatch.setattr(torch.linalg, "slogdet", forbidden)
    flow(torch.zeros(2, 3, DIM))
    with pytest.raises(AssertionError):
        flow.log_det_constant()


def test_atanh_inverts_squashing_and_clips() -> None:
    layer = Atanh()
    z = torch.linspace(-4, 4, 11).view(1, 11, 1)
    y, log_det = layer(layer.inverse(z))
    torch.testing.assert_close(y, z)
    torch.testing.assert_close(log_det, -(1 - torch.tanh(z).square()).log().sum(-1))
    edge, at_edge = layer(torch.ones(1, 1, 1))
    assert torch.isfinite(edge).all() and torch.isfinite(at_edge).all()


def test_coupling_and_act_norm_are_those_of_normflows() -> None:
    nf = pytest.importorskip("normflows")
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0])
    shift = MLP(seed_generators([0], 2), [DIM, 8, DIM], torch.tanh)
    log_scale = MLP(seed_generators([0], 3), [DIM, 8, DIM], torch.tanh)
    theirs = nf.flows.MaskedAffineFlow(mask, Single(shift), Single(log_scale))
    x = torch.randn(6, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, log_det = theirs.inverse(x)
    ours, our_log_det = AffineCoupling(mask, shift, log_scale)(x.unsqueeze(0))
    torch.testing.assert_close(ours[0], y)
    torch.testing.assert_close(our_log_det[0], log_det)
    norm = nf.flows.ActNorm(DIM)
    y, log_det = norm.inverse(x)
    act_norm = ActNorm(1, DIM)
    act_norm.initialise(x.unsqueeze(0))
    torch.testing.assert_close(act_norm(x.unsqueeze(0))[0][0], y, rtol=1e-4, atol=1e-4)
    expected = log_det.reshape(-1)[0]
    torch.testing.assert_close(act_norm.log_det()[0, 0], expected, rtol=1e-4, atol=1e-4)


def test_a_flow_without_constant_layers_says_so() -> None:
    with pytest.raises(ValueError, match="constant"):
        Flow([SmoothLeakyReLU()]).log_det_constant()
