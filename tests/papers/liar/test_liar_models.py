"""Modules of transformers, criteria, and whole reconstructions on tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import UserError
from common.textlab import models
from papers.liar import baselines, criteria, method
from papers.liar.architecture import Architecture, Batch, Dense, Stream, architecture
from papers.liar.method import Recipe, Ridge, reconstruct
from papers.liar.sparse import sparsify
from papers.liar.task import setting_of
from tests.papers.liar import stand_in


def bert() -> Architecture:
    import transformers

    torch.manual_seed(0)
    return architecture(stand_in.sharpened(transformers.BertModel(stand_in.config())))


def llama(groups: int = 1) -> Architecture:
    settings = {
        **models.common_settings(40, 32, 2, 16, 4),
        **{"num_key_value_heads": 4 // groups, "intermediate_size": 12},
    }
    return architecture(stand_in.sharpened(models.made("Llama", 0, settings)))


def batches(n: int = 6, length: int = 10, seed: int = 0) -> list[Batch]:
    """Half of the texts are shorter."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i in range(n):
        ids = torch.randint(5, 40, (4, length), generator=generator)
        real = torch.ones(4, length, dtype=torch.bool)
        real[::2, length - 1 - i % 3 :] = False
        made.append(Batch(ids.masked_fill(~real, 0), real))
    return made


ARCHITECTURES = {"bert": bert, "llama": llama, "llama with groups": lambda: llama(2)}


@pytest.fixture(params=ARCHITECTURES)
def arch(request: pytest.FixtureRequest) -> Architecture:
    return ARCHITECTURES[request.param]()


def whole(model: Any, batch: Batch) -> Tensor:
    """Last hidden states by the model's own forward, before a final norm."""
    base = getattr(model, "model", model)
    if hasattr(base, "norm"):
        base.norm = torch.nn.Identity()
    found: Tensor = base(input_ids=batch.ids, attention_mask=batch.real.long()).last_hidden_state
    return found


def stepwise(arch: Architecture, batch: Batch) -> Tensor:
    stream = Stream(arch, [batch])
    for index, module in enumerate(arch.modules):
        stream.advance(index, 0, module.last(stream.features(index, 0)))
    return stream.hidden[0]


@torch.no_grad()
def test_module_by_module_is_the_models_own_forward(arch: Architecture) -> None:
    for batch in batches(2):
        ours, theirs = stepwise(arch, batch), whole(arch.model, batch)
        torch.testing.assert_close(ours[batch.real], theirs[batch.real], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_smaller_model_is_the_masked_one(arch: Architecture) -> None:
    """Removed units with zero rows of the output projection, against units that are gone."""
    batch, keep = batches(1)[0], []
    linears = []
    for index, module in enumerate(arch.modules):
        units = torch.arange(0, module.n_units, 2)
        keep.append(units)
        W, b = method.weights_of(arch, index)
        linears.append((W[module.inputs_of(units)], b))
    small = architecture(arch.shrunk(keep, linears))
    for index, module in enumerate(arch.modules):
        mask = torch.zeros(module.last.in_features)
        mask[module.inputs_of(keep[index])] = 1
        module.last.weight.mul_(mask)
    masked = stepwise(arch, batch)
    for found in (stepwise(small, batch), whole(small.model, batch)):
        torch.testing.assert_close(found[batch.real], masked[batch.real], rtol=1e-4, atol=1e-5)


def test_the_number_of_parameters() -> None:
    arch = bert()
    before = arch.layer_parameters
    keep, linears = [], []
    for index, module in enumerate(arch.modules):
        units = torch.arange(module.n_units // 2)
        keep.append(units)
        W, b = method.weights_of(arch, index)
        linears.append((W[module.inputs_of(units)], b))
    small = architecture(arch.shrunk(keep, linears))
    head = 4 * (8 * 3 + 3) + 4 * 8  # one of two: 4 columns of Q, K, V with biases, 4 rows of W_O
    neurons = 6 * (8 + 1) + 6 * 8
    assert before - small.layer_parameters == 2 * (head + neurons)
    assert arch.layer_parameters == before  # the unpruned one is as it was
    widths = [(m.n_units, m.last.in_features) for m in small.modules[:2]]
    assert widths == [(1, 4), (6, 6)]


@torch.no_grad()
def test_padding_does_not_count(arch: Architecture) -> None:
    """More padding, other numbers in it: the same statistics and the same reconstruction."""
    plain, padded = batches(3), []
    for batch in plain:
        more = torch.full((4, 3), 7)
        ids = torch.cat([batch.ids.masked_fill(~batch.real, 9), more], 1)
        padded.append(Batch(ids, torch.cat([batch.real, torch.zeros(4, 3, dtype=torch.bool)], 1)))
    found = []
    for texts in (plain, padded):
        dense = Dense(arch, texts)
        units = criteria.choose_units(arch, scores(arch, "flap", dense, texts), 0.5, "all", False)
        found.append(reconstruct(arch, texts, units, Recipe(method.liar), dense))
    for one, other in zip(*found, strict=True):
        assert one.kept.tolist() == other.kept.tolist()
        torch.testing.assert_close(one.linear, other.linear, rtol=1e-3, atol=1e-4)


def scores(
    arch: Architecture, name: str, dense: Dense, texts: list[Batch], seed: int = 0
) -> list[Tensor]:
    def loss(h: Tensor, batch: Batch, i: int) -> Tensor:
        return (h * batch.real[..., None]).square().sum()

    return criteria.unit_scores(arch, name, dense, seed, loss, texts)


def solved(arch: Architecture, solve: method.Solver, target: str = "local", ratio: float = 0.5,
           **options: Any) -> tuple[list[method.Solution], Any]:  # fmt: skip
    texts = batches()
    dense = Dense(arch, texts, remember=options.pop("remember", True))
    units = criteria.choose_units(arch, scores(arch, "flap", dense, texts), ratio, "all", False)
    recipe = Recipe(solve, Ridge(1e-6), target, **options)  # type: ignore[arg-type]
    found = reconstruct(arch, texts, units, recipe, dense)
    return found, arch.shrunk(units, [s.linear for s in found])


@pytest.mark.parametrize("target", ["local", "dense", "stream"])
def test_nothing_pruned_nothing_changed(arch: Architecture, target: str) -> None:
    found, model = solved(arch, method.liar, target, ratio=0.0)
    for index, solution in enumerate(found):
        W, b = method.weights_of(arch, index)
        torch.testing.assert_close(solution.linear.weight, W, rtol=0, atol=2e-4)
        torch.testing.assert_close(solution.linear.bias, b, rtol=0, atol=2e-4)
        assert solution.error < 1e-8
    batch = batches(1)[0]
    with torch.no_grad():
        ours, theirs = whole(model, batch), whole(arch.model, batch)
    torch.testing.assert_close(ours[batch.real], theirs[batch.real], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("remember", [True, False])
def test_the_streams_are_those_of_the_models(arch: Architecture, remember: bool) -> None:
    """The last hidden states of the stream are those of the smaller model on the same texts."""
    found, model = solved(arch, method.liar, "dense", add_bias=True, remember=remember)
    texts, small = batches(), architecture(model)
    dense = Dense(arch, texts, remember=True)
    (received, given), last = list(dense)[-1], len(arch.modules) - 1
    for i, batch in enumerate(texts):
        with torch.no_grad():
            ends = arch.after(last, received[i], given[i]), whole(arch.model, batch)
        torch.testing.assert_close(ends[0][batch.real], ends[1][batch.real], rtol=1e-3, atol=1e-4)
    # the error that was reported is that of the smaller model's module on its own inputs
    stream, wrong, size = Stream(small, texts), 0.0, 0.0
    for index, (module, (_, wanted)) in enumerate(zip(small.modules, dense, strict=True)):
        for i, batch in enumerate(texts):
            with torch.no_grad():
                y = module.last(stream.features(index, i))
            if index == last:
                wrong += float((y - wanted[i])[batch.real].double().square().sum())
                size += float(wanted[i][batch.real].double().square().sum())
            stream.advance(index, i, y)
    assert wrong / size == pytest.approx(found[-1].error, rel=1e-3)


def test_reconstruction_runs_in_inference_mode_and_helps() -> None:
    errors = {}
    for name, solve in {
        "none": baselines.none,
        "bias": baselines.bias_compensation,
        "mask": baselines.mask_tuning,
        "liar": method.liar,
    }.items():
        found, _ = solved(bert(), solve, "dense")
        errors[name] = found[-1].error
        if name != "none":
            assert found[0].linear.weight.is_inference() or name == "bias"
    assert errors["liar"] < min(errors["none"], errors["bias"], errors["mask"])


def test_a_bias_is_added_only_where_it_is_asked_for() -> None:
    _, without = solved(llama(), method.liar)
    _, with_one = solved(llama(), method.liar, add_bias=True)
    assert without.model.layers[0].mlp.down_proj.bias is None
    assert with_one.model.layers[0].mlp.down_proj.bias is not None


# -- criteria --------------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, -1.0]], dtype=torch.float64)
    seen = criteria.Statistics(2, torch.device("cpu"))
    seen.add(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
    rng = torch.Generator().manual_seed(0)
    wanted = {
        "magnitude": [5.0, 1.0],
        "wanda": [7 * 10**0.5, 8**0.5],
        "flap": [25.0, 0.0],
    }
    for name, values in wanted.items():
        found = criteria.input_scores(name, weight, seen, rng)
        np.testing.assert_allclose(found, values, rtol=1e-9)
    with pytest.raises(UserError, match="did you mean flap"):
        criteria.input_scores("flop", weight, seen, rng)


def test_fisher_is_the_square_of_the_masks_gradient() -> None:
    """Against finite differences of a text's loss in a mask on one unit."""
    arch = bert()
    for parameter in arch.model.parameters():
        parameter.data = parameter.data.double()
    texts = [Batch(b.ids[i : i + 1], b.real[i : i + 1]) for b in batches(1) for i in range(3)]
    found = scores(arch, "fisher", Dense(arch, texts), texts)

    @torch.no_grad()
    def loss(batch: Batch, at: int, unit: int, by: float) -> float:
        h = arch.start(batch)
        for index, module in enumerate(arch.modules):
            x = arch.features(index, h, batch)
            if index == at:
                x[..., unit * module.unit : (unit + 1) * module.unit] *= 1 + by
            h = arch.after(index, h, module.last(x))
        return float((h * batch.real[..., None]).square().sum())

    for at, unit in ((0, 1), (1, 4), (2, 0)):
        slopes = [(loss(b, at, unit, 1e-5) - loss(b, at, unit, -1e-5)) / 2e-5 for b in texts]
        assert float(found[at][unit]) == pytest.approx(sum(s * s for s in slopes), rel=1e-3)


def test_how_many_units_stay() -> None:
    arch, texts = bert(), batches(2)
    dense = Dense(arch, texts)
    own = scores(arch, "magnitude", dense, texts)
    for ratio, parts, wanted in (
        (0.5, "all", [1, 6, 1, 6]),
        (0.75, "all", [1, 3, 1, 3]),
        (0.5, "heads", [1, 12, 1, 12]),
        (0.25, "ffn", [2, 9, 2, 9]),
    ):
        kept = criteria.choose_units(arch, own, ratio, parts, False)
        assert [len(k) for k in kept] == wanted
    everywhere = criteria.choose_units(arch, own, 0.5, "all", True)
    assert len(everywhere[1]) + len(everywhere[3]) == 12
    assert min(map(len, everywhere)) >= 1
    best = own[1].topk(6).indices.sort().values
    assert criteria.choose_units(arch, own, 0.5, "all", False)[1].tolist() == best.tolist()


def test_random_units_are_the_seeds() -> None:
    arch, texts = bert(), batches(1)
    dense = Dense(arch, texts)
    one, same, other = (scores(arch, "random", dense, texts, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# -- single weights, retraining --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wanda-weights-50", "magnitude-2to4-50", "obs-weights-50"])
def test_single_weights_of_whole_models(arch: Architecture, name: str) -> None:
    texts, setting = batches(), setting_of(name)
    dense, errors = Dense(arch, texts), {}
    for way in ("none", "bias", "liar", "sparsegpt"):
        model, found = sparsify(arch, texts, setting, way, Ridge(1e-4), dense, True)  # type: ignore[arg-type]
        layers = type(arch)(model).layers
        for linear in (m for m in layers.modules() if isinstance(m, torch.nn.Linear)):
            share = float((linear.weight != 0).float().mean())
            assert share == pytest.approx(0.5, abs=0.01)
        errors[way] = found[0].error  # the first module: the same inputs for all
    assert errors["liar"] <= min(errors["none"], errors["bias"])


def test_retraining_lowers_its_loss() -> None:
    arch, texts = bert(), batches()
    _, model = solved(arch, baselines.none, "dense")
    wanted = [stepwise(arch, batch).detach().clone() for batch in texts]
    losses = baselines.retrain(model, texts, wanted, steps=40, lr=1e-2)
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert not any(p.requires_grad for p in model.parameters())


def test_an_unknown_family_is_refused() -> None:
    other = models.gpt2(40, 16, layers=1, width=8, heads=2, seed=0, bias=True)
    with pytest.raises(UserError, match="models of type 'gpt2' cannot be pruned"):
        architecture(other)


def test_the_real_encoder_loads() -> None:
    """Sizes that the README names, from the checkpoint's own configuration."""
    import json

    from common.textlab import encoder

    config = json.loads((Path(encoder.folder()) / "config.json").read_text())
    sizes = [config[k] for k in ("num_hidden_layers", "hidden_size", "intermediate_size")]
    assert sizes == [6, 384, 1536]
