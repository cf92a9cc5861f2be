"""Two stages, stacked seeds, resuming, evaluation, claims; CIFAR on tiny stand-ins."""

import dataclasses
import itertools
import json
import math
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import tyro

from common import image_judges
from common.claims_v1 import judge_all, long_form
from common.claims_v1 import values as values_of
from common.errors import UserError
from common.run import Run
from common.stacked import seed_generators
from papers.dlsm import claims, judges, train
from papers.dlsm.eval import EvalConfig, evaluate, one_class
from papers.dlsm.networks import DigitsNet, ToyNet
from papers.dlsm.task import ImageNetworks, classifier_network, load, make_task, score_network
from papers.dlsm.train import Config

torch.set_num_threads(1)


def config(root, method, seed=(0, 1), task="moons", name=None, **changes):
    """A short run where the runner would put it."""
    stage = "prior" if method == "score" else "train"
    out = root / stage / task / (name or method) / f"seed-{seed[0]}-{seed[-1]}"
    short = {"steps": 12, "batch": 32, "samples": 20, "sampler_steps": 4, "cas_steps": 3}
    short["draws"] = 2_000
    return Config(method=method, task=task, seed=seed, out=out, **{**short, **changes})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Score models of both stackable tasks, trained for a moment."""
    root = tmp_path_factory.mktemp("runs")
    for task in ("moons", "digits"):
        for seed in ((0, 1), (1,)):
            train.train(config(root, "score", seed, task))
    return root


def net(cfg):
    return Run.load(cfg.out).final()["net"]


def values(cfg):
    table = pd.DataFrame(json.loads((cfg.out / "eval.json").read_text())["rows"])
    return table[table.value.map(np.isscalar)]


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("method", ["base", "dlsm", "total", "score", "posterior"])
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(root, monkeypatch, method):
    prior = root / "prior" / "moons" / "score" / "seed-0-1"
    whole, broken = (config(root, method, name=f"{method}-{n}", prior=prior) for n in "ab")
    train.train(whole)
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "5")
    draw, calls = train.draw, []

    def stop_at_8(*args):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return draw(*args)

    monkeypatch.setattr(train, "draw", stop_at_8)
    with pytest.raises(KeyboardInterrupt):
        train.train(broken)
    monkeypatch.setattr(train, "draw", draw)
    train.train(broken)
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
        if method != "score":
            cfg.prior = root / "prior" / task / "score" / cfg.out.name
        train.train(cfg)
    first = 2 if method == "posterior" else 1  # two networks per seed, or one
    stacked = {name: value[first:] for name, value in net(both).items()}
    start = train.network(alone, make_task(task)).state_dict()
    trained_alike(net(alone), stacked, start)


def test_stage_2_leaves_the_score_model_as_it_is(root):
    prior = root / "prior" / "moons" / "score" / "seed-0-1"
    before = {p: p.read_bytes() for p in prior.iterdir() if p.suffix == ".safetensors"}
    cfg = config(root, "total", name="leaves")
    cfg.prior = prior
    train.train(cfg)
    assert before and all(p.read_bytes() == data for p, data in before.items())
    frozen = train.load_prior(cfg, make_task("moons"), torch.device("cpu"))
    assert not frozen.training and not any(p.requires_grad for p in frozen.parameters())


def test_classifiers_share_weights_batches_and_noise(root, monkeypatch):
    """Methods differ in their loss alone."""
    batches = {}
    draw = train.draw

    def record(*args):
        rows, clean, sigma, z = draw(*args)
        batches[name].append((rows, sigma, z))
        return rows, clean, sigma, z

    monkeypatch.setattr(train, "draw", record)
    for name in ("base", "dlsm", "total"):
        batches[name] = []
        train.train(config(root, name, name=f"{name}-shared", steps=2))
    for name in ("dlsm", "total"):
        for ours, theirs in zip(batches["base"], batches[name], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    first = {name: train.network(config(root, name), make_task("moons")) for name in batches}
    assert torch.equal(first["base"].out.weight, first["total"].out.weight)


def test_posterior_models_see_their_own_class_only(root, monkeypatch):
    x, y = load("moons")
    seen = []
    loss = train.score_loss
    monkeypatch.setattr(
        train, "score_loss", lambda net, x, *a: (seen.append(x), loss(net, x, *a))[1]
    )
    train.train(config(root, "posterior", name="own", steps=1))
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
    _, clean, sigma, z = train.draw(x, [torch.arange(len(x))], g, 20_000, task)
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
    rates = [train.learning_rate(cifar, True, step) for step in (0, 2_500, 5_000, 900_000)]
    assert rates == pytest.approx([0, 1e-4, 2e-4, 2e-4])
    rates = [train.learning_rate(moons, True, step) for step in (0, 3_000, 6_000)]
    assert rates == pytest.approx([6.5e-4, 3.25e-4, 0])
    assert train.learning_rate(moons, False, 5_999) == moons.lr


def test_a_flag_changes_the_stage_that_is_trained():
    task = train.resolve(Config(method="score", lr=0.5, steps=7, weight=3.0))
    assert (task.score_lr, task.score_steps, task.score_weight) == (0.5, 7, 3.0)
    assert task.lr == make_task("moons").lr and task.weight == 2.0
    task = train.resolve(Config(method="total", lr=0.5, steps=7, weight=0.0, lambda_ce=0.0))
    assert (task.lr, task.steps, task.weight, task.lambda_ce) == (0.5, 7, 0.0, 0.0)
    assert task.score_lr == make_task("moons").score_lr


def test_errors_say_what_to_do(tmp_path, root):
    lost = config(tmp_path, "total")
    with pytest.raises(UserError, match="no score model"):
        train.train(lost)
    other = config(tmp_path, "total", name="other")
    other.prior = root / "prior" / "moons" / "score" / "seed-1-1"
    with pytest.raises(UserError, match="needs the score model of moons, seeds"):
        train.train(other)
    for changes, match in (
        ({"method": "totel"}, "did you mean total"),
        ({"method": "posterior", "task": "digits"}, "moons only"),
        ({"task": "cifar10", "seed": (0, 1)}, "one seed per job"),
        ({"method": "score", "weights": "ncsnpp"}, "for CIFAR"),
        ({"task": "cifar10", "weights": "ncsnpp"}, "those of the score model"),
    ):
        with pytest.raises(UserError, match=match):
            train.resolve(Config(**changes))


@pytest.mark.parametrize("scale", ["smoke", "default", "gpu", "paper"])
def test_every_job_of_the_manifest_can_start(scale):
    table = tomllib.loads((Path(train.__file__).parent / "paper.toml").read_text())
    for stage in table["scales"][scale]["stages"]:
        flags = ["--seed", "0"]
        for key, value in stage.get("args", {}).items():
            items = value if isinstance(value, list) else [value]
            flags += [f"--{key}"] if value is True else [f"--{key}", *map(str, items)]
        for method, task in itertools.product(stage["methods"], stage["tasks"]):
            cfg = tyro.cli(Config, args=["--method", method, "--task", task, *flags])
            resolved = train.resolve(cfg)
            steps = resolved.score_steps if method in train.SCORE_METHODS else resolved.steps
            assert steps == (cfg.steps or getattr(make_task(task), steps_of(method)))


def steps_of(method):
    return "score_steps" if method in train.SCORE_METHODS else "steps"


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


def test_moons_from_training_to_verdicts(root):
    tables = []
    for method in ("score", "posterior", "base", "dlsm", "total"):
        cfg = config(root, method)
        train.train(cfg)
        evaluate(EvalConfig(run=cfg.out))
        tables.append(json.loads((cfg.out / "eval.json").read_text()))
    rows = long_form([row for table in tables for row in table["rows"]])
    extras = [extra for table in tables for extra in table["extras"]]
    judged = {claim["id"]: claim for claim in judge_all(claims.CLAIMS[:6], rows, "default")}
    assert all(
        c["verdict"] in ("reproduced", "contradicted", "inconclusive") for c in judged.values()
    )
    assert (pick(rows, "scaling-10", "dense_d_l") > 0).all()
    assert pick(rows, "oracle", "precision").min() > 0.7  # 20 points
    assert pick(rows, "oracle", "swap_rate").max() < 0.35
    assert pick(rows, "oracle", "fresh_ce") == pytest.approx([0.0252, 0.0252], abs=0.012)
    steps, curve = claims.curves(rows, "moons", "base", "d_l_curve")
    assert steps.tolist() == [0, 12]
    assert curve[:, 0] == pytest.approx([0.15, 0.15], abs=0.03)  # untrained
    assert curve[:, 1] == pytest.approx(pick(rows, "base", "d_l"))
    assert set(claims.figures(rows, extras)) == {"curves", "scores", "samples"}
    assert [row[0] for row in claims.tables(rows)[0].rows][-1] == "oracle"


pick = claims.pick


def test_digits_from_training_to_figure(root):
    tables = []
    for method in ("score", "base", "total"):
        cfg = config(root, method, task="digits", cas_steps=40)
        if method == "score":  # cas_steps is an evaluation's: the run is there already
            cfg.cas_steps = 3
        train.train(cfg)
        evaluate(EvalConfig(run=cfg.out))
        tables.append(json.loads((cfg.out / "eval.json").read_text()))
    rows = long_form([row for table in tables for row in table["rows"]])
    assert set(rows.method) == {"real", "base", "scaling-3", "scaling-10", "total"}
    (logistic,) = values_of(rows, "digits", "real", "cas_logistic")
    assert logistic > 0.8  # 200 real images
    for method in ("base", "scaling-10", "total"):
        for metric in ("cas_cnn", "cw_recall", "cw_coverage", "mmd2"):
            assert len(pick(rows, method, metric, "digits")) == 2
    extras = [extra for table in tables for extra in table["extras"]]
    assert set(claims.figures(rows, extras)) == {"images_digits"}
    judgement = claims.images_carry_the_class("digits")(rows)
    assert judgement.verdict in ("reproduced", "contradicted", "inconclusive")


def frame(values, task="moons", metric="d_l"):
    return pd.DataFrame(
        [
            {"method": m, "task": task, "seed": s, "metric": metric, "value": v}
            for m, column in values.items()
            for s, v in enumerate(column)
        ]
    )


def test_verdicts_follow_the_numbers():
    good = frame(
        {"base": [0.19, 0.2, 0.21], "total": [0.08, 0.09, 0.08], "scaling-10": [2.7, 3, 3]}
    )
    assert claims.likelihood_mismatch(good).verdict == "reproduced"
    assert claims.scaling_worsens(good).verdict == "reproduced"
    bad = frame(
        {"base": [0.19, 0.2, 0.21], "total": [0.16, 0.17, 0.16], "scaling-10": [0.3, 0.2, 0.3]}
    )
    judgement = claims.likelihood_mismatch(bad)
    assert judgement.verdict == "contradicted" and judgement.ours.startswith("partly (1 of 2")
    assert claims.scaling_worsens(bad).verdict == "contradicted"
    close = frame({"total": [0.1, 0.11, 0.1], "posterior": [0.08, 0.09, 0.07]}, metric="d_p")
    assert claims.close_to_posterior(close).verdict == "reproduced"
    ce = frame({"dlsm": [0.2, 0.21, 0.2], "total": [0.2, 0.21, 0.2]}, metric="fresh_ce")
    assert claims.cross_entropy_helps(ce).verdict == "inconclusive"
    both = [
        {"total": [0.8, 0.81], "base": [0.8, 0.8]},
        {"total": [0.7, 0.72], "scaling-10": [0.4, 0.4]},
    ]
    images = pd.concat([frame(both[0], "digits", "cas_cnn"), frame(both[1], "digits", "cw_recall")])
    judgement = claims.images_carry_the_class("digits")(images)
    assert judgement.evidence["(b) class-wise recall − scaling > 0"]["verdict"] == "reproduced"
    scales = {
        claim["id"]: claim["verdict"] for claim in judge_all(claims.CLAIMS[7:], good, "default")
    }
    assert scales == {"D7-CIFAR": "needs gpu", "D8": "needs paper"}


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
    rng = np.random.default_rng(0)
    parts = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
    for folder, names, n_labels, n_classes in (
        ("cifar-10-batches-bin", parts, 1, 10),
        ("cifar-100-binary", ("train.bin", "test.bin"), 2, 100),
    ):
        (tmp_path / folder).mkdir()
        for name in names:
            n = 5 * n_classes
            labels = np.zeros((n, n_labels), np.uint8)
            labels[:, -1] = np.arange(n) % n_classes
            pixels = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
            (tmp_path / folder / name).write_bytes(np.hstack([labels, pixels]).tobytes())
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


def test_cifar_from_score_model_to_verdict(cifar, tmp_path):
    rows = []
    for method in ("score", "base", "total"):
        cfg = tiny(tmp_path, method)
        train.train(cfg)
        evaluate(EvalConfig(run=cfg.out))
        rows += json.loads((cfg.out / "eval.json").read_text())["rows"]
    rows = long_form(rows)
    assert set(rows.method) == {"real", "base", "scaling-10", "total"}
    judgement = claims.images_carry_the_class("cifar10")(rows)
    assert set(judgement.evidence) == {"(a) CAS", "(b) recall"}
    # the evaluated score model is the average of its weights, without dropout
    frozen = train.load_prior(tiny(tmp_path, "total"), make_task("cifar10"), torch.device("cpu"))
    assert not frozen.training
    at = torch.rand(1, 2, 3072)
    assert torch.equal(frozen(at, torch.tensor(1.0)), frozen(at, torch.tensor(1.0)))


def test_inception_metrics_at_the_paper_scale(cifar, tmp_path, monkeypatch):
    """With a random projection for Inception: what is compared with what."""
    seen = []

    def stand_in(device):
        weight = torch.randn(3072, 6, generator=torch.Generator().manual_seed(0))
        return lambda x: (seen.append(len(x)), (x @ weight, x @ weight))[1]

    monkeypatch.setattr(image_judges, "inception", stand_in)
    monkeypatch.setattr(train, "require_inception", lambda: None)
    cfg = tiny(tmp_path, "score", inception=True, samples=25)
    train.train(cfg)
    evaluate(EvalConfig(run=cfg.out))
    table = values(cfg).set_index("metric").value
    assert table["fid"] == pytest.approx(0.0, abs=1e-3)  # all training images against themselves
    assert table["inception_score"] > 1.0 and seen[0] == 100


def test_a_missing_inception_is_told_before_training(cifar, tmp_path, monkeypatch):
    monkeypatch.setattr(image_judges.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="make setup .*SCALE=paper"):
        train.train(tiny(tmp_path, "score", inception=True))
    assert not any(tmp_path.rglob("config.json"))


def test_cifar_score_model_resumes_with_its_dropout(cifar, tmp_path, monkeypatch):
    whole, broken = (tiny(tmp_path, "score", steps=4) for _ in "ab")
    broken = dataclasses.replace(broken, out=tmp_path / "broken")
    train.train(whole)
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "2")
    draw, calls = train.draw, []

    def stop_at_4(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return draw(*args)

    monkeypatch.setattr(train, "draw", stop_at_4)
    with pytest.raises(KeyboardInterrupt):
        train.train(broken)
    monkeypatch.setattr(train, "draw", draw)
    train.train(broken)
    assert all(torch.equal(value, net(broken)[name]) for name, value in net(whole).items())


def test_pretrained_weights_are_taken_as_they_are(cifar, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    made = score_network(make_task("cifar10"), seed_generators((3,), 1), TINY)
    made.net.unet.save_pretrained(cifar / "ncsnpp", safe_serialization=True)
    cfg = tiny(tmp_path, "score", weights="ncsnpp")
    train.train(cfg)
    for name, value in made.state_dict().items():
        assert torch.equal(net(cfg)[name], value)
    guided_by = tiny(tmp_path, "total")
    train.train(guided_by)  # finds it
    with pytest.raises(UserError, match="holds no model"):
        train.train(tiny(tmp_path / "x", "score", weights="elsewhere"))
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
    out = train.mirrored(x, seed_generators((0, 1), 9))
    flipped = x.view(2, 64, 3, 32, 32).flip(-1).flatten(2)
    is_flipped = (out == flipped).all(-1)
    assert ((out == x).all(-1) ^ is_flipped).all()
    assert 0.2 < is_flipped.float().mean() < 0.8
