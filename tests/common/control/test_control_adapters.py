"""LoRA on the decision transformer: nothing at birth, exact when merged, one at a time."""

import pytest
import torch

from common.control.adapters import add_lora, lora_parameters, merge_lora, use_lora
from common.control.decision_transformer import TransformerConfig, decision_transformer
from common.control.sequences import Windows

pytest.importorskip("peft", reason="needs the extra 'control'")
CONFIG = TransformerConfig(3, 2, max_steps=9, width=16, layers=2, heads=2, dropout=0.0)


@pytest.fixture
def model():
    return decision_transformer(CONFIG, 0).eval()


@pytest.fixture(scope="module")
def windows():
    g = torch.Generator().manual_seed(0)
    return Windows(
        torch.randn(5, 4, generator=g),
        torch.randn(5, 4, 3, generator=g),
        torch.rand(5, 4, 2, generator=g),
        torch.arange(4).expand(5, -1),
        torch.ones(5, 4, dtype=torch.bool),
    )


def filled(model, name, seed):
    """As if trained: B is not zero any more."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in lora_parameters(model, name):
            p.normal_(0, 0.3, generator=g)


def test_an_adapter_changes_nothing_at_birth(model, windows):
    before = model.features(windows)
    add_lora(model.blocks, "one", seed=1)
    assert torch.equal(model.features(windows), before)
    assert len(lora_parameters(model, "one")) == 2 * CONFIG.layers
    shapes = {tuple(p.shape) for p in lora_parameters(model, "one")}
    assert shapes == {(8, 16), (48, 8)}


def test_the_map_is_w_plus_scaled_b_a(model, windows):
    add_lora(model.blocks, "one", seed=1, rank=4, alpha=2.0)
    filled(model, "one", 0)
    layer = model.blocks.h[0].attn.c_attn
    a, b = lora_parameters(model, "one")[:2]
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(3))
    wanted = x @ layer.base_layer.weight + layer.base_layer.bias + 2 / 4 * x @ a.T @ b.T
    torch.testing.assert_close(layer(x), wanted, rtol=1e-5, atol=1e-5)


def test_merging_is_exact(model, windows):
    add_lora(model.blocks, "one", seed=1)
    filled(model, "one", 0)
    apart = model.features(windows)
    base = model.blocks.h[1].attn.c_attn.base_layer.weight.detach().clone()
    merge_lora(model.blocks, "one")
    torch.testing.assert_close(model.features(windows), apart, rtol=1e-5, atol=1e-5)
    a, b = lora_parameters(model, "one")[2:]
    merged = model.blocks.h[1].attn.c_attn.base_layer.weight
    torch.testing.assert_close(merged, base + (b @ a).T / 8, rtol=1e-5, atol=1e-6)


def test_one_adapter_at_a_time_and_the_base_alone(model, windows):
    base = model.features(windows)
    for seed, name in enumerate(("one", "two")):
        add_lora(model.blocks, name, seed)
    filled(model, "one", 0)
    assert torch.equal(model.features(windows), base)  # "two" is in use, and untrained
    use_lora(model.blocks, "one")
    one = model.features(windows)
    filled(model, "two", 1)
    assert torch.equal(model.features(windows), one)
    use_lora(model.blocks, "two")
    assert not torch.allclose(model.features(windows), one, atol=1e-3)
    use_lora(model.blocks, None)
    assert torch.equal(model.features(windows), base)
    with pytest.raises(ValueError, match="already"):
        add_lora(model.blocks, "one", 0)


def test_the_seed_is_all_that_counts_and_the_base_stays_as_free_as_it_was(model):
    frozen = model.blocks.h[0].mlp.c_fc.weight.requires_grad_(False)
    add_lora(model.blocks, "one", seed=1)
    assert model.blocks.h[0].attn.c_attn.base_layer.weight.requires_grad
    assert not frozen.requires_grad
    torch.manual_seed(5)
    other = decision_transformer(CONFIG, 0)
    add_lora(other.blocks, "uno", seed=1)
    pairs = zip(lora_parameters(model, "one"), lora_parameters(other, "uno"), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    for p in lora_parameters(model, "one"):
        p.requires_grad_(False)
    use_lora(model.blocks, None)
    use_lora(model.blocks, "one")
    assert not any(p.requires_grad for p in lora_parameters(model, "one"))


def test_gradients_reach_the_adapter_in_use(model, windows):
    add_lora(model.blocks, "one", 0)
    add_lora(model.blocks, "two", 1)
    model.features(windows).square().sum().backward()
    assert all(p.grad is None for p in lora_parameters(model, "one"))
    assert all((p.grad != 0).any() for p in lora_parameters(model, "two")[1::2])  # B; A's is 0
