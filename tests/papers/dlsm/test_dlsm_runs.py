"""Two stages, stacked seeds, resuming, evaluation; CIFAR on tiny stand-ins."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
import tyro

from common import image_judges
from common.errors import UserError
from common.rows import Rows
from common.run import Run
from common.stacked import seed_generators
from papers import dlsm
from papers.dlsm import claims, judges, report, train, train_score
from papers.dlsm.config import Config, ScoreConfig, resolve
from papers.dlsm.eval import EvalConfig, evaluate, one_class
from papers.dlsm.methods import METHODS
from papers.dlsm.models import classifier_network, load_prior, network, score_network
from papers.dlsm.networks import DigitsNet, ToyNet
from papers.dlsm.task import (
    ImageNetworks,
    draw,
    load,
    make_task,
)
from tests import stand_ins
from tools import manifest

torch.set_num_threads(1)


def config(root, method, seed=(0, 1), task="moons", name=None, **changes):
    """A short run where the runner would put it."""
    folder = "prior" if method == "score" else "train"
    ends = seed if len(seed) == 1 or seed[0] == seed[-1] else (seed[0], seed[-1])
    out = root / folder / task / (name or method) / f"seed-{'-'.join(map(str, ends))}"
    short = {"steps": 12, "batch": 32, "samples": 20, "sampler_steps": 4, "cas_steps": 3}
    short["draws"] = 2_000
    kind = ScoreConfig if METHODS[method].kind == "score" else Config
    return kind(method=method, task=task, seed=seed, out=out, **{**short, **changes})


def stage(cfg):
    """The module that trains it."""
    return train_score if isinstance(cfg, ScoreConfig) else train


def run(cfg):
    stage(cfg).train(cfg)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Score models of both stackable tasks, trained for a moment."""
    root = tmp_path_factory.mktemp("runs")
    for task in ("moons", "digits"):
        for seed in ((0, 1), (1,)):
            run(config(root, "score", seed, task))
    return root


def prior_of(root):
    return root / "prior" / "moons" / "score" / "seed-0-1"


def net(cfg):
    return Run.load(cfg.out).final()["net"]


def values(cfg):
    table = pd.DataFrame(json.loads((cfg.out / "eval.json").read_text())["rows"])
    return table[table.value.map(np.isscalar)]


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("method", ["base", "dlsm", "total", "score", "posterior"])
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(root, monkeypatch, method):
    given = {} if METHODS[method].kind == "score" else {"prior": prior_of(root)}
    whole, broken = (config(root, method, name=f"{method}-{n}", **given) for n in "ab")
    run(whole)
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "5")
    calls = []

    def stop_at_8(*args):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return draw(*args)

    monkeypatch.setattr(stage(broken), "draw", stop_at_8)
    with pytest.raises(KeyboardInterrupt):
        run(broken)
    monkeypatch.setattr(stage(broken), "draw", draw)
    run(broken)
    assert all(torch.equal(value, net(broken)[name]) for name, value in net(whole).items())
    assert Run.load(whole.out).metrics() == Run.load(broken.out).metrics()


@pytest.mark.parametrize(
    ("task", "method"),
    [("moons", "score"), ("moons", "total"), ("moons", "posterior"), ("digits", "total")],
)
def test_a_stacked_seed_is_what_it_would_be_alone(root, trained_alike, task, method):
    both, alone = (
        config(root, method, seed, task, name=f"{method}-stack") for seed in ((0, 1), (1,))
    )
    for cfg in (both, alone):
        if isinstance(cfg, Config):
            cfg.prior = root / "prior" / task / "score" / cfg.out.name
        run(cfg)
    first = 2 if method == "posterior" else 1  # two networks per seed, or one
    stacked = {name: value[first:] for name, value in net(both).items()}
    start = network(alone, make_task(task)).state_dict()
    trained_alike(net(alone), stacked, start)


def test_stage_2_leaves_the_score_model_as_it_is(root):
    prior = prior_of(root)
    before = {p: p.read_bytes() for p in prior.iterdir() if p.suffix == ".safetensors"}
    cfg = config(root, "total", name="leaves")
    cfg.prior = prior
    run(cfg)
    assert before and all(p.read_bytes() == data for p, data in before.items())
    frozen = load_prior(cfg, make_task("moons"), torch.device("cpu"))
    assert not frozen.training and not any(p.requires_grad for p in frozen.parameters())


def test_classifiers_share_weights_batches_and_noise(root, monkeypatch):
    """Methods differ in their loss alone."""
    batches = {}

    def record(*args):
        rows, clean, sigma, z = draw(*args)
        batches[name].append((rows, sigma, z))
        return rows, clean, sigma, z

    monkeypatch.setattr(train, "draw", record)
    for name in ("base", "dlsm", "total"):
        batches[name] = []
        run(config(root, name, name=f"{name}-shared", steps=2))
    for name in ("dlsm", "total"):
        for ours, theirs in zip(batches["base"], batches[name], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    first = {name: network(config(root, name), make_task("moons")) for name in batches}
    assert torch.equal(first["base"].out.weight, first["total"].out.weight)


def test_posterior_models_see_their_own_class_only(root, monkeypatch):
    x, y = load("moons")
    seen = []
    loss = train_score.score_loss
    monkeypatch.setattr(
        train_score, "score_loss", lambda net, x, *a: (seen.append(x), loss(net, x, *a))[1]
    )
    run(config(root, "posterior", name="own", steps=1))
    (batch,) = seen  # [S * C, B, 2], seeds first
    for i, points in enumerate(batch):
        nearest = torch.cdist(points, x).argmin(1)
        assert (y[nearest] == i % 2).all()
    stack = ToyNet(seed_generators((0, 1, 2, 3), 1), 2, 2)
    at = torch.randn(2, 5, 2)
    whole = stack(at.repeat_interleave(2, 0), torch.tensor(2.0))
    torch.testing.assert_close(one_class(stack, 1, 2)(at, torch.tensor(2.0)), whole[1::2])


def test_noise_covers_the_published_range():
    task = make_task("moons")
    g = seed_generators((0,), 5)
    x, _ = load("moons")
    _, clean, sigma, z = draw(x, [torch.arange(len(x))], g, 20_000, task)
    assert clean.shape == (1, 20_000, 2) and z.std().item() == pytest.approx(1, abs=0.02)
    log = sigma.log()  # uniform
    assert log.min().item() == pytest.approx(math.log(1e-3), abs=0.01)
    assert log.max().item() == pytest.approx(math.log(10), abs=0.01)
    assert log.mean().item() == pytest.approx(math.log(0.1), abs=0.1)


def test_hyperparameters_are_the_published_ones():
    moons, cifar, hundred = (make_task(name) for name in ("moons", "cifar10", "cifar100"))
    assert (moons.sigma_min, moons.sigma_max) == (1e-3, 10.0)
    assert (moons.weight, moons.lambda_ce, moons.score_lr, moons.k) == (2.0, 0.125, 6.5e-4, 5)
    assert (cifar.sigma_min, cifar.sigma_max, cifar.t_min) == (0.01, 50.0, 1e-5)
    assert (cifar.weight, cifar.lambda_ce, cifar.lr, cifar.batch) == (0.0, 1.0, 2e-4, 150)
    assert (cifar.steps, cifar.score_steps, cifar.score_ema) == (60_000, 950_000, 0.999)
    assert (cifar.warm_up, hundred.warm_up, hundred.n_classes) == (0, 1_000, 100)
    rates = [cifar.score_rate(step) for step in (0, 2_500, 5_000, 900_000)]
    assert rates == pytest.approx([0, 1e-4, 2e-4, 2e-4])
    rates = [moons.score_rate(step) for step in (0, 3_000, 6_000)]
    assert rates == pytest.approx([6.5e-4, 3.25e-4, 0])
    assert moons.rate(5_999) == moons.lr


def test_a_flag_changes_the_stage_that_is_trained():
    task = resolve(ScoreConfig(method="score", lr=0.5, steps=7, weight=3.0))
    assert (task.score_lr, task.score_steps, task.score_weight) == (0.5, 7, 3.0)
    assert task.lr == make_task("moons").lr and task.weight == 2.0
    task = resolve(Config(method="total", lr=0.5, steps=7, weight=0.0, lambda_ce=0.0))
    assert (task.lr, task.steps, task.weight, task.lambda_ce) == (0.5, 7, 0.0, 0.0)
    assert task.score_lr == make_task("moons").score_lr


def test_errors_say_what_to_do(tmp_path, root):
    lost = config(tmp_path, "total")
    with pytest.raises(UserError, match="no score model"):
        run(lost)
    other = config(tmp_path, "total", name="other")
    other.prior = root / "prior" / "moons" / "score" / "seed-1"
    with pytest.raises(UserError, match="needs the score model of moons, seeds"):
        run(other)
    for kind, changes, match in (
        (Config, {"method": "totel"}, "did you mean total"),
        (Config, {"method": "score"}, "classifier, moons"),
        (Config, {"task": "cifar11"}, "did you mean cifar10"),
        (ScoreConfig, {"method": "posterior", "task": "digits"}, "score, digits"),
        (Config, {"task": "cifar10", "seed": (0, 1)}, "one seed per job"),
        (Config, {"prior_seed": 0}, "for CIFAR"),
        (Config, {"inception": True}, "for CIFAR"),
        (ScoreConfig, {"weights": "ncsnpp"}, "CIFAR's score model"),
    ):
        with pytest.raises(UserError, match=match):
            resolve(kind(**changes))


def test_every_job_of_the_manifest_can_start():
    paper = manifest.load("dlsm")
    jobs = [job for scale in paper.scales for job in paper.scale(scale).jobs]
    priors = {(job.scale, job.task, job.seeds) for job in jobs if job.method == "score"}
    for job in jobs:
        kind = ScoreConfig if job.module == "train_score" else Config
        cfg = tyro.cli(kind, args=[word.replace("_", "-") for word in job.command[2:]])
        resolved = resolve(cfg)
        steps = "score_steps" if kind is ScoreConfig else "steps"
        assert getattr(resolved, steps) == (cfg.steps or getattr(make_task(job.task), steps))
        if kind is Config:  # the score model that it reads is one of the same scale
            seeds = cfg.seed if cfg.prior_seed is None else (cfg.prior_seed,)
            assert (job.scale, job.task, seeds) in priors, job.name


# ------------------------------------------------------------------ networks


def test_the_score_of_digits_is_divided_by_sigma():
    g = seed_generators((0,), 1)
    score = DigitsNet(g, 64, 64, 0.05, 5.0, divide_by_sigma=True)
    x = torch.zeros(1, 3, 64)
    for sigma in (0.05, 5.0):
        assert score(x, torch.tensor(sigma)).std().item() * sigma == pytest.approx(0.05, abs=0.05)
    logits = classifier_network(make_task("digits"), g)(x, torch.rand(1, 3, 1) + 0.1)
    assert logits.shape == (1, 3, 10)


def test_sigma_only_shifts_the_output_of_the_published_toy_network():
    toy = ToyNet(seed_generators((0, 1), 1), 2, 2)
    x = torch.randn(2, 9, 2)
    shift = toy(x, torch.tensor(3.0)) - toy(x, torch.tensor(0.1))
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), atol=1e-5, rtol=0)
    assert shift.abs().max() > 1e-3
    assert (
        sum(p.numel() for p in toy.parameters()) / 2
        == 768 + 32_896 + 8_256 + 128 + 2_080 + 528 + 162
    )


# ------------------------------------------------------------------ evaluation and claims


def test_moons_from_training_to_rows(root):
    evaluations = []
    for method in ("score", "posterior", "base", "dlsm", "total"):
        cfg = config(root, method)
        run(cfg)
        evaluate(EvalConfig(run=cfg.out))
        evaluations.append(json.loads((cfg.out / "eval.json").read_text()))
    rows = Rows([row for each in evaluations for row in each["rows"]])
    extras = [extra for each in evaluations for extra in each["extras"]]

    def pick(method, metric):
        return claims.of(rows, method, "moons", metric).values()

    assert (pick("scaling-10", "dense_d_l") > 0).all()
    assert pick("oracle", "precision").min() > 0.7  # 20 points
    assert pick("oracle", "swap_rate").max() < 0.35
    assert pick("oracle", "fresh_ce") == pytest.approx([0.0252, 0.0252], abs=0.012)
    classes = [rows.of(method="base", metric="d_l", label=c).values() for c in (0, 1)]
    assert pick("base", "d_l") == pytest.approx(np.mean(classes, axis=0))
    steps, curve = claims.of(rows, "base", "moons", "d_l_curve").curve()
    assert steps.tolist() == [0, 12]
    assert curve[:, 0] == pytest.approx([0.15, 0.15], abs=0.03)  # untrained
    assert curve[:, 1] == pytest.approx(pick("base", "d_l"))
    assert set(report.figures(rows, extras)) == {"curves", "scores", "samples"}
    (main,) = (table for table in report.tables(rows) if table.main)
    assert [row[0] for row in main.rows][-1] == "oracle"


def test_digits_from_training_to_figure(root):
    evaluations = []
    for method in ("score", "base", "total"):
        cfg = config(root, method, task="digits")
        run(cfg)
        evaluate(EvalConfig(run=cfg.out))
        evaluations.append(json.loads((cfg.out / "eval.json").read_text()))
    rows = Rows([row for each in evaluations for row in each["rows"]])
    assert set(rows.unique("method")) == {"real", "base", "scaling-3", "scaling-10", "total"}
    assert rows.of(method="real", metric="cas_logistic").value() > 0.8  # 200 real images
    for method in ("base", "scaling-10", "total"):
        for metric in ("cas_cnn", "cw_recall", "cw_coverage", "mmd2"):
            assert len(claims.of(rows, method, "digits", metric).values()) == 2
    extras = [extra for each in evaluations for extra in each["extras"]]
    assert set(report.figures(rows, extras)) == {"images_digits"}


@pytest.mark.parametrize("task", ["moons", "digits"])
def test_a_trained_guide_is_used(root, task):
    cfg = config(root, "total", task=task, name="used")
    run(cfg)
    guide = dlsm.load(cfg.out, seed=1)
    x = torch.rand(5, guide.dim)
    log_p = guide.log_prob(x, sigma=1.0)
    assert log_p.shape == (5, guide.n_classes)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(5))
    # of its own seed, and Bayes' rule: likelihood plus prior
    whole = network(cfg, make_task(task))
    whole.load_state_dict(net(cfg))
    logits = whole(x.expand(2, -1, -1), torch.tensor(1.0))[1]
    torch.testing.assert_close(log_p, torch.log_softmax(logits, dim=-1))
    twice, once = (guide.score(x, 1, sigma=1.0, alpha=alpha) for alpha in (2.0, 1.0))
    prior = load_prior(cfg, make_task(task), torch.device("cpu"))
    unguided = prior(x.expand(2, -1, -1), torch.tensor(1.0))[1]
    torch.testing.assert_close(2 * once - twice, unguided, atol=1e-4, rtol=1e-4)
    samples = guide.sample(3, y=1, seed=4)
    assert samples.shape == (3, guide.dim)
    assert torch.equal(samples, guide.sample(3, y=1, seed=4))
    assert not torch.equal(samples, guide.sample(3, y=0, seed=4))
    with pytest.raises(UserError, match="not 7"):
        dlsm.load(cfg.out, seed=7)
    with pytest.raises(UserError, match="stage 2"):
        dlsm.load(root / "prior" / task / "score" / "seed-0-1")


# ------------------------------------------------------------------ judges


def test_prdc_agrees_with_the_package():
    prdc = pytest.importorskip("prdc")
    g = torch.Generator().manual_seed(0)
    real, fake = torch.randn(60, 4, generator=g), 1.3 * torch.randn(80, 4, generator=g)
    theirs = prdc.compute_prdc(real.numpy(), fake.numpy(), nearest_k=3)
    assert vars(judges.prdc(real, fake, 3)) == pytest.approx(theirs)
    same = judges.prdc(real, real, 3)
    assert (same.precision, same.recall) == (1.0, 1.0)


def test_the_feature_network_knows_the_digits():
    (x, y), (held_x, held_y) = load("digits"), load("digits", "held-out")
    assert len(x) == 1_197 and len(held_x) == 600 and x.max() == 1.0
    net = judges.fit(judges.SmallCNN, x, y, steps=600, lr=1e-3, batch=64, seed=12_345)
    assert judges.accuracy(net, held_x, held_y) >= 0.97
    assert net.features(held_x[:5]).shape == (5, 64)


# ------------------------------------------------------------------ CIFAR on stand-ins

TINY = ImageNetworks(channels=(32, 32), layers=1, width=4)


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Both data sets in their published binary format, a few images each."""
    stand_ins.cifar(tmp_path, per_class=5)
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    return tmp_path


def tiny(root, method, **changes):
    sizes = {"steps": 2, "batch": 4, "samples": 4, "sampler_steps": 1, "cas_steps": 1}
    return config(root, method, (0,), "cifar10", images=TINY, **{**sizes, **changes})


def test_cifar_is_read_with_its_labels(cifar):
    x, y = load("cifar10")
    assert x.shape == (250, 3072) and x.dtype == torch.uint8 and y[:12].tolist()[-2:] == [0, 1]
    assert load("cifar10", "held-out")[0].shape == (50, 3072)
    x, y = load("cifar100")
    assert len(x) == 500 and y.max() == 99  # fine labels


def test_classifiers_of_several_seeds_share_one_score_model_of_cifar(cifar, tmp_path):
    run(tiny(tmp_path, "score"))
    for seed in (0, 1):
        cfg = config_of_seed(tmp_path, "total", seed)
        run(cfg)
    first, second = (net(config_of_seed(tmp_path, "total", seed)) for seed in (0, 1))
    assert not all(torch.equal(value, second[name]) for name, value in first.items())
    lost = config_of_seed(tmp_path, "total", 1)
    lost.prior_seed, lost.out = None, tmp_path / "train" / "cifar10" / "lost" / "seed-1"
    with pytest.raises(UserError, match="no score model"):
        run(lost)
    # the evaluated score model is the average of its weights, without dropout
    frozen = load_prior(cfg, make_task("cifar10"), torch.device("cpu"))
    assert not frozen.training
    at = torch.rand(1, 2, 3072)
    assert torch.equal(frozen(at, torch.tensor(1.0)), frozen(at, torch.tensor(1.0)))


def config_of_seed(root, method, seed):
    cfg = tiny(root, method, prior_seed=0)
    cfg.seed, cfg.out = (seed,), root / "train" / "cifar10" / method / f"seed-{seed}"
    return cfg


def test_inception_metrics_at_the_paper_scale(cifar, tmp_path, monkeypatch):
    """With a random projection for Inception: what is compared with what."""
    seen = []

    def stand_in(device):
        weight = torch.randn(3072, 6, generator=torch.Generator().manual_seed(0))
        return lambda x: (seen.append(len(x)), (x @ weight, x @ weight))[1]

    monkeypatch.setattr(image_judges, "inception", stand_in)
    monkeypatch.setattr(train_score, "require_inception", lambda: None)
    cfg = tiny(tmp_path, "score", inception=True, samples=25)
    run(cfg)
    evaluate(EvalConfig(run=cfg.out))
    table = values(cfg).set_index("metric").value
    assert table["fid"] == pytest.approx(0.0, abs=1e-3)  # all training images against themselves
    assert table["inception_score"] > 1.0 and seen[0] == 100


def test_a_missing_inception_is_told_before_training(cifar, tmp_path, monkeypatch):
    monkeypatch.setattr(image_judges.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="make setup .*SCALE=paper"):
        run(tiny(tmp_path, "score", inception=True))
    assert not any(tmp_path.rglob("config.json"))


def test_cifar_score_model_resumes_with_its_dropout(cifar, tmp_path, monkeypatch):
    whole, broken = (tiny(tmp_path, "score", steps=4, batch=1) for _ in "ab")
    broken = dataclasses.replace(broken, out=tmp_path / "broken")
    run(whole)
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "2")
    calls = []

    def stop_at_4(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return draw(*args)

    monkeypatch.setattr(train_score, "draw", stop_at_4)
    with pytest.raises(KeyboardInterrupt):
        run(broken)
    monkeypatch.setattr(train_score, "draw", draw)
    run(broken)
    assert all(torch.equal(value, net(broken)[name]) for name, value in net(whole).items())


def test_pretrained_weights_are_taken_as_they_are(cifar, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    made = score_network(make_task("cifar10"), seed_generators((3,), 1), TINY)
    made.net.unet.save_pretrained(cifar / "ncsnpp", safe_serialization=True)
    cfg = tiny(tmp_path, "score", weights="ncsnpp")
    run(cfg)
    for name, value in made.state_dict().items():
        assert torch.equal(net(cfg)[name], value)
    guided_by = tiny(tmp_path, "total")
    run(guided_by)  # finds it
    with pytest.raises(UserError, match="holds no model"):
        run(tiny(tmp_path / "x", "score", weights="elsewhere"))
    assert diffusers.UNet2DModel.from_pretrained(cifar / "ncsnpp").config.center_input_sample


def test_published_sizes_of_cifar_s_networks():
    """Counted on the meta device: ResNet-18 / 34 with embedding, NCSN++ (deep) of 107 M weights."""
    from papers.dlsm.networks_large import NoiseEmbedding, ResNet

    with torch.device("meta"):
        eighteen = ResNet((2, 2, 2, 2), 10, noisy=True)
        plain = ResNet((2, 2, 2, 2), 10)
        fifty = ResNet((3, 4, 6, 3), 10, bottleneck=True)

    def size(module):
        return sum(p.numel() for p in module.parameters())

    assert size(plain) == 11_173_962 and size(fifty) == 23_520_842  # the usual CIFAR ResNets
    embedding = 64 * 128 + 128 + 128 * 128 + 128
    assert size(NoiseEmbedding()) == embedding
    assert size(eighteen) == size(plain) + embedding + sum(129 * n for n in (64, 128, 256, 512))


def test_mirrored_images_are_mirrored_left_to_right():
    x = torch.arange(2 * 64 * 3072, dtype=torch.float32).view(2, 64, 3072)
    out = train_score.mirrored(x, seed_generators((0, 1), 9))
    flipped = x.view(2, 64, 3, 32, 32).flip(-1).flatten(2)
    is_flipped = (out == flipped).all(-1)
    assert ((out == x).all(-1) ^ is_flipped).all()
    assert 0.2 < is_flipped.float().mean() < 0.8
