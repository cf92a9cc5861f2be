"""Stacked networks equal single ones; the gradient clip works seed by seed."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from common.gfn.nets import StackedMLP, StackedTransformer
from common.stacked import adam, clip_grad_norm_per_seed, seed_generators

SIZES = (6, 16, 16, 4)


def test_stack_equals_single_networks() -> None:
    stack = StackedMLP(seed_generators((3, 8), 0), SIZES)
    x = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(0))
    for i, seed in enumerate((3, 8)):
        alone = StackedMLP(seed_generators((seed,), 0), SIZES)
        for p, q in zip(stack.parameters(), alone.parameters(), strict=True):
            assert torch.equal(p[i], q[0])
        assert torch.allclose(stack(x)[i], alone(x[i : i + 1])[0], atol=1e-6)
        hidden = x[i]
        for n, layer in enumerate(stack.layers):
            hidden = hidden @ layer.weight[i] + layer.bias[i]
            hidden = nn.functional.leaky_relu(hidden) if n < 2 else hidden
        assert torch.allclose(stack(x)[i], hidden, atol=1e-6)
    assert torch.allclose(stack(x[0])[1], stack(x[:1].expand(2, -1, -1))[1], atol=1e-6)


def test_transformer_equals_pytorchs_layers() -> None:
    width = 16
    stack = StackedTransformer(
        seed_generators((0, 1), 0), 5, 4, 3, width=width, n_heads=2, feed_forward=8, n_layers=2
    ).eval()
    tokens = torch.randint(5, (2, 6, 4), generator=torch.Generator().manual_seed(0))
    out = stack(tokens)
    for seed in range(2):
        x = stack.embedding[seed][tokens[seed]] + stack.positions[:4]
        for i in range(2):
            layer = nn.TransformerEncoderLayer(width, 2, 8, 0.1, batch_first=True).eval()
            with torch.no_grad():
                layer.self_attn.in_proj_weight.copy_(stack.qkv[i].weight[seed].T)
                layer.self_attn.in_proj_bias.copy_(stack.qkv[i].bias[seed, 0])
                layer.self_attn.out_proj.weight.copy_(stack.out[i].weight[seed].T)
                layer.self_attn.out_proj.bias.copy_(stack.out[i].bias[seed, 0])
                layer.linear1.weight.copy_(stack.up[i].weight[seed].T)
                layer.linear1.bias.copy_(stack.up[i].bias[seed, 0])
                layer.linear2.weight.copy_(stack.down[i].weight[seed].T)
                layer.linear2.bias.copy_(stack.down[i].bias[seed, 0])
            x = layer(x)
        expected = x @ stack.head.weight[seed] + stack.head.bias[seed]
        assert torch.allclose(out[seed], expected, atol=1e-5)


def test_clip_is_per_seed() -> None:
    p = nn.Parameter(torch.zeros(2, 3))
    q = nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([[3.0, 0.0, 0.0], [0.3, 0.0, 0.0]])
    q.grad = torch.tensor([4.0, 0.4])
    norms = clip_grad_norm_per_seed([p, q], 1.0)
    assert norms.tolist() == pytest.approx([5.0, 0.5])
    assert p.grad[0, 0] == pytest.approx(0.6) and q.grad[0] == pytest.approx(0.8)
    assert p.grad[1, 0] == pytest.approx(0.3) and q.grad[1] == pytest.approx(0.4)


def test_clip_survives_huge_gradients() -> None:
    p = nn.Parameter(torch.zeros(2, 2))
    p.grad = torch.tensor([[3e21, 4e21], [1.0, 0.0]])  # squares overflow float32
    norms = clip_grad_norm_per_seed([p], 10.0)
    assert torch.isfinite(norms).all()
    assert p.grad[0].tolist() == pytest.approx([6.0, 8.0], rel=1e-5)
    assert p.grad[1].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("overflow", [float("inf"), float("nan")])
def test_a_seed_that_overflows_is_dropped_on_request(overflow: float) -> None:
    for drop in (False, True):
        p, q = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
        p.grad = torch.tensor([[overflow, 1.0], [3.0, 0.0]])
        q.grad = torch.tensor([2.0, 4.0])
        norms = clip_grad_norm_per_seed([p, q], 1.0, drop_overflow=drop)
        assert not norms[0].isfinite() and norms[1] == 5.0
        assert p.grad[1].tolist() == pytest.approx([0.6, 0.0])
        assert q.grad[1].item() == pytest.approx(0.8)
        if drop:
            assert p.grad[0].tolist() == [0.0, 0.0] and q.grad[0] == 0.0
        else:
            assert not p.grad[0].isfinite().all()


def test_adam_steps_do_not_mix_seeds(trained_alike: Callable[..., None]) -> None:
    def run(seeds: tuple[int, ...], steps: int = 5) -> dict[str, torch.Tensor]:
        net = StackedMLP(seed_generators(seeds, 0), SIZES)
        optimizer = adam([{"params": list(net.parameters())}])
        x = torch.ones(len(seeds), 5, 6)
        for _ in range(steps):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            clip_grad_norm_per_seed(list(net.parameters()), 0.5)
            optimizer.step()
        return {name: p.detach() for name, p in net.named_parameters()}

    stacked = {name: value[1:] for name, value in run((4, 9)).items()}
    trained_alike(run((9,)), stacked, run((9,), steps=0))
