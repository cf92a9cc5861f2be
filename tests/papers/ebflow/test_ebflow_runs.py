"""Data and exact densities, training with stacked seeds, resuming, evaluation, cost."""

import json
import math

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.rows import Rows
from common.run import Run
from common.score import parzen
from common.stacked import seed_generators
from papers.ebflow import bench, claims, cost, load, models, report, task, train
from papers.ebflow import eval as evaluation
from papers.ebflow.config import SETTINGS, Config, setting_of
from papers.ebflow.eval import EvalConfig, evaluate
from papers.ebflow.methods import METHODS, timed

torch.set_num_threads(1)

# ------------------------------------------------------------------ data


@pytest.mark.parametrize("name", list(task.SCALES))
def test_smoothed_density_is_that_of_the_points(name):
    """It sums to one, and a smoothed sample of the generator has its density and score."""
    density = task.smoothed_density(name, 0.375)
    width, height = task.EXTENTS[name]
    x = torch.linspace(-1.2 * width, 1.2 * width, 81).double()
    y = torch.linspace(-1.2 * height, 1.2 * height, 81).double()
    grid = torch.cartesian_prod(x, y)
    p = density.log_prob_and_score(grid)[0].exp()
    assert p.sum() * (x[1] - x[0]) * (y[1] - y[0]) == pytest.approx(1.0, abs=2e-4)

    clean = task.points(name, 3, 40_000).double()
    at = task.points(name, 4, 40).double() + 0.2
    log_p, score = density.log_prob_and_score(at)
    estimate, estimated_score = parzen(at, clean, 0.375)
    assert (log_p - estimate).abs().max() < 0.2 and (log_p - estimate).mean().abs() < 0.03
    assert (score - estimated_score).abs().mean() < 0.15
    step = torch.tensor([1e-5, 0.0]).double()
    rise = density.log_prob_and_score(at + step)[0] - density.log_prob_and_score(at - step)[0]
    torch.testing.assert_close(score[:, 0], rise / 2e-5, atol=1e-5, rtol=1e-5)


def test_quadrature_errors_are_negligible():
    """The checkerboard has a closed form; the others are compared with finer rules."""
    x = task.points("checkerboard", 0, 200).double() + 0.3
    log_p = task.smoothed_density("checkerboard", 0.375).log_prob_and_score(x)[0]
    normal, total = torch.distributions.Normal(0.0, 0.375), torch.zeros(200).double()
    for column in range(-2, 2):
        for row in (column % 2, column % 2 - 2):
            edges = torch.tensor([[column, row], [column + 1, row + 1]]).double() * 3
            total += (normal.cdf(x - edges[0]) - normal.cdf(x - edges[1])).prod(-1) / 8 / 9
    torch.testing.assert_close(log_p, total.log(), atol=1e-6, rtol=0)

    angle = 3 * np.pi * (np.arange(8_000) + 0.5) / 8_000
    spiral = np.stack([angle * np.cos(angle) + 1, -angle * np.sin(angle) + 2], 1)
    x = task.points("swirl", 0, 20).double() + 0.3
    r, phi = task.SCALES["swirl"], torch.distributions.Normal(0.0, 0.375)
    ends = [torch.from_numpy(r * (spiral - shift))[:, None] for shift in (0.5, 0.0)]
    inside = (phi.cdf(x - ends[0]) - phi.cdf(x - ends[1])).prod(-1) / (0.5 * r) ** 2
    expected = ((inside * torch.from_numpy(angle)[:, None]).sum(0) / angle.sum()).log()
    ours = task.smoothed_density("swirl", 0.375).log_prob_and_score(x)[0]
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_points_are_those_of_the_paper():
    sine = task.points("sine", 0, 20_000) / 4
    assert sine[:, 0].abs().max() <= 2
    rest = sine[:, 1] - torch.sin(3 * sine[:, 0])
    assert rest.std() == pytest.approx(0.25, abs=0.005)
    swirl = task.points("swirl", 0, 20_000) / (2.5 / 3)
    radius = (swirl - torch.tensor([1.0, 2.0]) + 0.25).norm(dim=1)
    assert radius.max() < 3 * math.pi + 0.36
    # n = 3 pi sqrt(U): the share inside half of the radius is a quarter
    assert (radius < 1.5 * math.pi).float().mean() == pytest.approx(0.25, abs=0.02)
    assert not torch.equal(task.points("sine", 1, 5), task.points("sine", 0, 5))


def test_kl_is_the_mean_of_log_ratios_not_weighted_by_the_density():
    """The authors' toy 'KLD' averages p (log p - log q) over points that are drawn from p already.

    For two normal distributions the mean of the log-ratio is the divergence, theirs is not.
    """
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0)).double()
    p, q = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(0.5, 1.5)
    exact = torch.distributions.kl_divergence(p, q).item()
    ratio = p.log_prob(x) - q.log_prob(x)
    assert ratio.mean().item() == pytest.approx(exact, abs=0.01)
    assert (p.log_prob(x).exp() * ratio).mean().item() < 0.5 * exact


def test_evaluation_under_a_laplace_base_would_not_be_the_trained_density():
    """The authors' toy code trains with a Gaussian base and evaluates under a Laplace one."""
    u = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    gaussian = torch.distributions.Normal(0.0, 1.0).log_prob(u).mean().item()
    laplace = torch.distributions.Laplace(0.0, 1.0).log_prob(u).mean().item()
    # a perfect model would be charged 0.07 nats per dimension
    assert gaussian - laplace == pytest.approx(0.072, abs=0.005)


def test_images_are_split_once_for_all(monkeypatch):
    rng = np.random.default_rng(0)
    sets = {"train": rng.integers(0, 256, (20, 3072)), "test": rng.integers(0, 256, (5, 3072))}
    monkeypatch.setattr(task, "image_set", lambda name, split: (sets[split].astype(np.uint8), None))
    loaded = task.images("cifar10")
    assert [len(x) for x in (loaded.train, loaded.valid, loaded.test)] == [16, 4, 5]
    assert (loaded.dim, loaded.levels, loaded.train.dtype) == (3072, 256, torch.uint8)
    both = torch.cat((loaded.train, loaded.valid)).long()
    assert sorted(both.tolist()) == sorted(sets["train"].tolist())
    assert torch.equal(loaded.valid, task.images("cifar10").valid)
    assert np.array_equal(loaded.test.numpy(), sets["test"])


def test_flips_and_shifts():
    x = torch.arange(2 * 9.0).view(1, 1, 18)  # (2, 3, 3)
    keep, flip = torch.tensor([0.9, 0.5, 0.5]), torch.tensor([0.1, 0.5, 0.5])
    assert torch.equal(task.flip_and_shift(x, (2, 3, 3), keep.view(1, 1, 3), 1), x)
    flipped = task.flip_and_shift(x, (2, 3, 3), flip.view(1, 1, 3), 1)
    assert torch.equal(flipped.view(2, 3, 3), x.view(2, 3, 3).flip(-1))
    shifted = task.flip_and_shift(x, (2, 3, 3), torch.tensor([0.9, 0.99, 0.0]).view(1, 1, 3), 1)
    image = x.view(2, 3, 3)
    assert torch.equal(shifted.view(2, 3, 3)[:, 0, 1:], image[:, 1, :2])
    assert torch.equal(shifted.view(2, 3, 3)[:, 2, 0], image[:, 2, 0])


# ------------------------------------------------------------------ training


def config(tmp_path, name="run", **changes):
    values = {"method": "ssm", "seed": (0, 1), "steps": 12, "evaluations": 3, "langevin": 4}
    return Config(**{**values, **changes, "out": tmp_path / name})


def final(cfg):
    return Run.load(cfg.out).final()


SMALL_TOY = {"task": "sine", "batch": 64}


@pytest.mark.parametrize(
    ("method", "changes"),
    [("ssm", {}), ("sml", {}), ("dsm", SMALL_TOY), ("fdssm", SMALL_TOY), ("dsm-nomap", {})],
)
def test_resumed_run_is_the_undisturbed_one_bit_for_bit(tmp_path, monkeypatch, method, changes):
    whole = config(tmp_path, "whole", method=method, **changes)
    train.train(whole)
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "5")
    broken = config(tmp_path, "broken", method=method, **changes)
    step = train.step_of

    def stop_at_8(*args, calls=[0]):  # noqa: B006
        calls[0] += 1
        if calls[0] == 8:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(train, "step_of", stop_at_8)
    with pytest.raises(KeyboardInterrupt):
        train.train(broken)
    monkeypatch.setattr(train, "step_of", step)
    train.train(broken)
    one, other = final(whole), final(broken)
    for name, value in one["flow"].items():
        assert torch.equal(value, other["flow"][name]), name
    for kind in (lambda t: t["ema"]["averages"], lambda t: t["best_weights"]):
        assert all(torch.equal(a, b) for a, b in zip(kind(one), kind(other), strict=True))
    assert Run.load(whole.out).metrics() == Run.load(broken.out).metrics()


@pytest.mark.parametrize(("method", "changes"), [("fdssm", {}), ("sml", {}), ("ssm", SMALL_TOY)])
def test_a_stacked_seed_is_what_it_would_be_alone(tmp_path, trained_alike, method, changes):
    train.train(config(tmp_path, "both", method=method, seed=(4, 7), **changes))
    train.train(config(tmp_path, "alone", method=method, seed=(7,), **changes))
    train.train(config(tmp_path, "first", method=method, seed=(7,), **{**changes, "steps": 1}))
    both, alone, first = (final(config(tmp_path, n))["flow"] for n in ("both", "alone", "first"))
    member = {
        name: value[1:] if len(value) == 2 and "mask" not in name else value
        for name, value in both.items()
    }
    trained_alike(alone, member, first)
    weight = next(v for k, v in both.items() if k.endswith("weight"))
    assert not torch.allclose(weight[0], weight[1])


@pytest.mark.parametrize("clip", [1.0, math.inf])
def test_a_seed_whose_gradient_overflows_sits_the_step_out(clip):
    setting = setting_of("sine", "sml")
    flow = models.build(setting, seed_generators([0, 1], 0), None)
    parameters = list(flow.parameters())
    before = [p.detach().clone() for p in parameters]
    optimiser = train.optimiser_of(parameters, setting)
    x = torch.randn(2, 16, 2, generator=torch.Generator().manual_seed(0))
    loss = train.loss_of(METHODS["ml"], flow, x, seed_generators([0, 1], 1), setting, 0)
    norm = train.step_of(
        flow, loss * torch.tensor([math.inf, 1.0]), optimiser, train.Ema(parameters, 0.9), clip
    )
    assert not norm[0].isfinite() and norm[1].isfinite()
    assert all(torch.equal(p[0], q[0]) for p, q in zip(parameters, before, strict=True))
    assert not all(torch.equal(p[1], q[1]) for p, q in zip(parameters, before, strict=True))


def test_epochs_go_through_the_data_once():
    setting = setting_of("digits-fc", "ssm")
    batches = train.Batches(setting, (0, 1), torch.device("cpu"))
    assert batches.per_epoch == 11
    seen = []
    for step in range(11):
        batches.at(step, seed_generators((0, 1), 2), smooth=True)
        seen.append(batches.order[:, step * 100 : (step + 1) * 100])
    for rows in torch.cat(seen, 1):
        assert len(rows.unique()) == 1100
    first = batches.order.clone()
    batches.at(11, seed_generators((0, 1), 2), smooth=True)
    assert not torch.equal(first, batches.order) and not torch.equal(first[0], first[1])


def test_all_losses_have_the_same_target_in_the_plane():
    """The data are smoothed once: DSM adds its own noise to clean points, the others get noise."""
    batches = train.Batches(setting_of("sine", "dsm"), (0,), torch.device("cpu"))
    noisy = batches.at(0, seed_generators((0,), 2), smooth=True)
    clean = batches.at(0, seed_generators((0,), 2), smooth=False)
    assert (noisy - clean).std().item() == pytest.approx(0.375, abs=0.02)
    rows = batches.order[0, :512]
    assert torch.equal(clean[0], batches.data[0, rows])


def test_learning_rates():
    digits = setting_of("digits-fc", "ssm")
    rates = [train.learning_rate(digits, step, 4_000, 11) for step in (0, 2_799, 2_800, 3_999)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])
    mnist = setting_of("mnist-fc", "ssm")
    rates = [train.learning_rate(mnist, 500 * e, 10**6, 500) for e in (0, 1, 49, 50, 300)]
    expected = [1.0, 0.95, 0.95**49, 0.95**49, 0.95**49]
    assert rates == pytest.approx([1e-4 * x for x in expected])


def test_settings_of_the_paper():
    assert setting_of("mnist-fc", "fdssm").clip == 5 and setting_of("mnist-fc", "ssm").clip > 1e9
    assert (setting_of("mnist-fc", "dsm").sigma, setting_of("mnist-cnn", "dsm").sigma) == (1, 0.1)
    assert setting_of("mnist-cnn", "ml").weight_decay == 1e-5
    assert setting_of("mnist-cnn", "ssm").weight_decay == 0
    assert setting_of("paper-swirl", "ml").lr == 5e-3
    assert setting_of("paper-sine", "sml").optimiser == "adamw"
    assert setting_of("sine", "ml", batch=None, lr=0.5).lr == 0.5
    assert {s.ema for s in SETTINGS.values()} == {0.999}
    for entry in METHODS.values():
        assert set(entry.changes) <= set(SETTINGS)
    with pytest.raises(UserError, match="unknown task"):
        setting_of("digit-fc", "ml")
    with pytest.raises(UserError, match="unknown loss"):
        setting_of("digits-fc", "mle")
    with pytest.raises(UserError, match="Gaussian is not trained"):
        setting_of("digits-fc", "gaussian")


def test_energy_weights(monkeypatch):
    """lambda_E / channels beside DSM and SSM, lambda_E / xi^2 beside FDSSM, none beside SML."""
    seen = {}
    original = train.method.per_dimension

    def spy(result, dim, weight=0.0):
        seen[name] = weight
        return original(result, dim, weight)

    monkeypatch.setattr(train.method, "per_dimension", spy)
    setting = setting_of("cifar-fc", "ssm")
    flow = models.Flow(models.fc_layers(seed_generators((0,), 1), 12))
    for name in ("ssm", "dsm", "fdssm", "sml", "ml"):
        x = torch.randn(1, 4, 12)
        train.loss_of(METHODS[name], flow, x, seed_generators((0,), 2), setting, 3)
    assert seen == pytest.approx({"ssm": 1e-3 / 3, "dsm": 1e-3 / 3, "fdssm": 1e-3 / 0.01})


# ------------------------------------------------------------------ likelihoods


def test_likelihood_is_that_of_integers():
    """A flow whose logits are standard logistic has uniform pixels: log2(levels) bits exactly."""

    class Uniform(train.Flow):
        """Base density whose pixels are uniform."""

        def forward(self, x, context=None):
            y, log_det = super().forward(x)
            # make -log p_u equal the logistic density's: cancels the logit's log-determinant
            logistic = -y - 2 * torch.nn.functional.softplus(-y)
            return 0 * y, log_det + logistic.sum(-1) + 2 * math.log(2 * math.pi)

    data = torch.randint(0, 17, (50, 4), generator=torch.Generator().manual_seed(0))
    flow = Uniform(models.preprocessing((1, 2, 2), 17, 1.0))
    nll = train.negative_log_likelihood(flow, data.byte(), seed=1)
    assert nll.item() / (4 * math.log(2)) == pytest.approx(math.log2(17), abs=1e-4)


def test_likelihood_uses_the_same_noise_for_every_model():
    data = task.images("digits")
    setting = setting_of("digits-fc", "ml")
    flows = [models.build(setting, seed_generators(s, 1), data) for s in ((0, 1), (2,))]
    one, other = (
        train.negative_log_likelihood(f, data.valid[:90], seed=3, draws=2, chunk=40) for f in flows
    )
    assert one.shape == (2,) and one.dtype == torch.float64
    assert torch.equal(one[:1], other)  # the FC model starts at -I whatever the seed


# ------------------------------------------------------------------ evaluation


@pytest.fixture
def quick(monkeypatch):
    for name, value in (("IMPUTED", 9), ("PROPOSALS", 200), ("DRAWS", 2)):
        monkeypatch.setattr(evaluation, name, value)
    for name, value in (("FRESH", 300), ("GRID", 12)):
        monkeypatch.setattr(task, name, value)


@pytest.mark.parametrize(
    ("method", "task_name"),
    [("ml", "digits-fc"), ("ssm-nomap", "digits-fc"), ("dsm", "digits-cnn"), ("ml", "swirl")],
)
def test_runs_are_evaluated(tmp_path, quick, method, task_name):
    cfg = config(tmp_path, method=method, task=task_name, steps=6, batch=32)
    train.train(cfg)
    evaluate(EvalConfig(run=cfg.out))
    result = json.loads((cfg.out / "eval.json").read_text())
    rows = Rows(result["rows"])
    on_images = task_name != "swirl"
    wanted = {"bits_per_dim", "nll", "rmse_mean", "log_Z_error"} if on_images else {"kl", "fisher"}
    assert wanted | {"gradient_norm"} <= set(rows.unique("metric"))
    assert rows.of(method=method).unique("seed") == [0, 1]
    if on_images:
        bits = claims.scored(rows, method, "bits_per_dim", task_name).values()
        nats = claims.scored(rows, method, "nll", task_name).values()
        assert bits == pytest.approx(nats / (64 * math.log(2))) and (bits > 1).all()
        known = {row["method"]: row["value"] for row in result["rows"] if row["metric"] == "nll"}
        assert ("gaussian" in known) == (method == "ml")
        image = np.array(result["extras"][0]["data"])
        assert image.shape == (3, 8, 64)
        left = image.reshape(3, 8, 8, 8)[..., :4]
        assert (left[0] == left[1]).all()  # what is known stays
    else:
        assert (claims.scored(rows, method, "kl", task_name).values() > 0).all()
        assert [e["name"] for e in result["extras"]] == ["exact", "learnt"]


def test_a_diverged_run_is_reported_and_not_hidden(tmp_path, quick):
    cfg = config(tmp_path, method="ml", steps=4, lr=1e30)
    train.train(cfg)
    evaluate(EvalConfig(run=cfg.out))
    rows = Rows(json.loads((cfg.out / "eval.json").read_text())["rows"])
    found = claims.scored(rows.of(lr=1e30), "ml", "bits_per_dim")
    assert not found  # a rate of its own is no run of the claims'
    values = rows.of(method="ml", metric="bits_per_dim", weights="ema")
    assert (values.values() > 1e100).all()
    empty = {"method": "ml", "task": "digits-fc", "metric": "nll", "value": None}
    lost = Rows([{**empty, "seed": seed} for seed in (0, 1)])
    assert report.scores(lost) == "diverged"
    assert report.scores(Rows([{**empty, "seed": 0}, {**empty, "seed": 1, "value": 2.0}])) == (
        "2 (1 diverged)"
    )


def test_gaussian_reference_needs_no_flow():
    """The FC model with a linear middle is a Gaussian in logit space: the same likelihood."""
    data = task.images("digits")
    rows = evaluation.reference_rows("digits-fc", data)
    bits = {r["method"]: r["value"] for r in rows if r["metric"] == "bits_per_dim"}
    assert bits["uniform"] == pytest.approx(math.log2(17))
    assert 2.0 < bits["gaussian"] < 4.0
    fills = {r["method"]: r["value"] for r in rows if r["metric"] == "rmse_mean"}
    assert fills["gaussian"] < fills["mean-fill"]


# ------------------------------------------------------------------ use


def test_a_trained_flow_is_used(tmp_path, quick):
    cfg = config(tmp_path, seed=(3, 5), steps=6, batch=32)
    train.train(cfg)
    evaluate(EvalConfig(run=cfg.out))
    flow = load(cfg.out, seed=5)
    x = task.images("digits").test[:40].float()
    nats = train.negative_log_likelihood(flow.flow, x, seed=11, draws=2)
    rows = Rows(json.loads((cfg.out / "eval.json").read_text())["rows"])
    whole = task.images("digits").test
    assert train.negative_log_likelihood(flow.flow, whole, seed=11, draws=2).item() == (
        pytest.approx(claims.scored(rows.of(seed=5), "ssm", "nll").value(), rel=1e-6)
    )
    assert torch.allclose(nats, train.negative_log_likelihood(flow.flow, x, seed=11, draws=2))
    assert flow.sample(4).shape == (4, 64) and torch.equal(flow.sample(2), flow.sample(2))
    y = x[:3] + 0.5
    assert flow.log_prob(y).shape == (3,)
    step = torch.zeros(64)
    step[20] = 1e-2
    rise = (flow.log_prob(y + step) - flow.log_prob(y - step)) / 2e-2
    torch.testing.assert_close(flow.score(y)[:, 20], rise, rtol=0.05, atol=0.05)
    missing = evaluation.right_half((1, 8, 8))
    filled = flow.impute(x[:3], missing, steps=5)
    torch.testing.assert_close(filled[:, missing == 0], x[:3][:, missing == 0], atol=1e-3, rtol=0)
    with pytest.raises(UserError, match="seeds 3, 5, not 4"):
        load(cfg.out, seed=4)


def test_points_have_nothing_to_impute(tmp_path):
    cfg = config(tmp_path, steps=2, **SMALL_TOY)
    train.train(cfg)
    flow = load(cfg.out)
    assert flow.sample(5).shape == (5, 2) and flow.score(flow.sample(5)).shape == (5, 2)
    with pytest.raises(UserError, match="points"):
        flow.impute(torch.zeros(1, 2), torch.ones(2))


# ------------------------------------------------------------------ cost


def test_cost_is_measured_for_all_losses_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    cfg = cost.Config(out=tmp_path / "cost", sizes=(8, 16), batch=(4,), repeats=2)
    measure, calls = cost.measure, []

    def spy(model, size, *rest):
        if (model, size) == ("fc", 16) and not calls.count("again"):
            raise KeyboardInterrupt
        calls.append((model, size))
        return measure(model, size, *rest)

    monkeypatch.setattr(cost, "measure", spy)
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "1")
    with pytest.raises(KeyboardInterrupt):
        cost.main(cfg)
    calls.append("again")
    cost.main(cfg)
    assert calls == [("fc", 8), "again", ("fc", 16)]
    evaluate(EvalConfig(run=cfg.out))
    rows = Rows(json.loads((cfg.out / "eval.json").read_text())["rows"])
    for loss in (*timed(), "update"):
        for dim in (8, 16):
            times = claims.timed(rows, loss, "fc", 4, dim).values()
            assert len(times) == 2 and (times > 0).all()
    with pytest.raises(UserError, match="unknown task"):
        cost.main(cost.Config(out=tmp_path / "other", task="glow"))


def test_growth_is_the_exponent():
    dims = [64, 256, 1024]
    assert cost.growth(dims, [d**2.5 / 100 for d in dims]) == pytest.approx(2.5)


def test_bench_prints_exponents(tmp_path, capsys):
    cfg = bench.BenchConfig(json=tmp_path / "b.json", fc=(16, 32), cnn=(8,), repeats=1)
    bench.bench(cfg)
    assert "FDSSM" in capsys.readouterr().out
    numbers = json.loads((tmp_path / "b.json").read_text())
    assert set(numbers["exponent"]) == set(timed()) and numbers["ratio"] > 0
