"""Runs that are cut, stacks against single networks, evaluation, images on stand-ins, use."""

import json
import math
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from common.errors import UserError
from common.run import Run
from common.score import parzen
from papers.qcsgm import (
    bench,
    count_steps,
    exact,
    load,
    networks,
    pretrain,
    report,
    task,
    train,
    train_autoencoder,
)
from papers.qcsgm import eval as evaluation
from papers.qcsgm.config import Config, members
from papers.qcsgm.eval import EvalConfig, evaluate
from papers.qcsgm.method import asymmetry
from papers.qcsgm.networks import ToyNetwork

torch.set_num_threads(1)


def config(tmp_path, name="run", **changes):
    values = {"method": "qc_est", "task": "8gaussians", "seed": (0, 1), "steps": 10, "batch": 20}
    return Config(**{**values, "lam": (0.1,), **changes, "out": tmp_path / name})


def weights(cfg):
    return Run.load(cfg.out).final()["net"]


@pytest.fixture(autouse=True)
def few_points(monkeypatch):
    """Small evaluations; a test that wants more says so."""
    monkeypatch.setattr(task, "N_TOY", 2000)
    monkeypatch.setattr(task, "N_HELD_OUT", 60)
    monkeypatch.setattr(evaluation, "N_SAMPLES", 60)
    monkeypatch.setattr(evaluation, "N_POINTS", 20)
    monkeypatch.setattr(evaluation, "PC_LEVELS", 5)
    monkeypatch.setattr(evaluation, "SOLVERS", (("RK45", 1e-3),))


# -- training -------------------------------------------------------------------------------------


def same(whole, cut):
    return all(torch.equal(value, cut["net"][name]) for name, value in whole["net"].items())


@pytest.mark.parametrize(
    ("method", "where", "after", "every"),  # digits: before and after the regulariser sets in
    [
        *(("qc_est", "8gaussians", 0, 6), ("c", "spirals", 0, 6)),
        *(("qc_est", "digits", 5, 3), ("qc_est", "digits", 5, 7)),
    ],
)
def test_a_cut_run_ends_with_the_same_numbers(tmp_path, whole_and_cut, method, where, after, every):
    cfg = config(tmp_path, method=method, task=where, regularise_after=after)
    assert same(*whole_and_cut(train.train, cfg, every))


def test_a_cut_autoencoder_ends_with_the_same_numbers(tmp_path, whole_and_cut):
    cfg = train_autoencoder.Config(seed=(0, 1), steps=120, out=tmp_path / "run")
    assert same(*whole_and_cut(train_autoencoder.train, cfg, 50))


@pytest.mark.parametrize("where", ["8gaussians", "digits"])
@pytest.mark.parametrize("method", ["qc", "qc_est"])
def test_without_weight_the_regulariser_is_u_bit_for_bit(tmp_path, method, where):
    steps = 3 if where == "digits" else 10
    common = {"task": where, "steps": steps, "regularise_after": 0, "batch": 8}
    if method == "qc" and where == "digits":
        common["batch"] = 2  # 64 backward passes
    train.train(config(tmp_path, "u", method="u", **common))
    train.train(config(tmp_path, "zero", method=method, lam=(0.0,), **common))
    u, zero = (weights(config(tmp_path, name)) for name in ("u", "zero"))
    assert all(torch.equal(value, zero[name]) for name, value in u.items())
    lines = Run.load(tmp_path / "zero").metrics()
    assert all(value != 0 for value in lines[-1]["regulariser"])  # it was computed


def test_fine_tuning_starts_from_u(tmp_path):
    """Up to the step at which the regulariser sets in, QC is the U that is continued."""
    train.train(config(tmp_path, "u", method="u", task="digits"))
    train.train(config(tmp_path, "late", task="digits", regularise_after=10))
    train.train(config(tmp_path, "qc", task="digits", regularise_after=9))
    u, late, qc = (weights(config(tmp_path, name)) for name in ("u", "late", "qc"))
    assert all(torch.equal(value, late[name]) for name, value in u.items())
    assert not torch.equal(u["mlp.layers.1.weight"], qc["mlp.layers.1.weight"])


@pytest.mark.parametrize("method", ["qc", "qc_est", "c"])
def test_a_member_of_a_stack_is_what_it_would_be_alone(tmp_path, trained_alike, method):
    both = config(tmp_path, "both", method=method, seed=(4, 7), lam=(0.1, 1.0))
    train.train(both)
    for index, (seed, lam) in enumerate(members(both)):
        alone, first = (
            config(tmp_path, f"{name}-{index}", method=method, seed=(seed,), lam=(lam,), **changes)
            for name, changes in (("alone", {}), ("first", {"steps": 1}))
        )
        train.train(alone)
        train.train(first)
        member = {name: value[index : index + 1] for name, value in weights(both).items()}
        trained_alike(weights(alone), member, weights(first))
    expected = [(4, 0.0), (7, 0.0)] if method == "c" else list(both_members())
    assert members(both) == expected


def both_members():
    for lam in (0.1, 1.0):
        yield from ((4, lam), (7, lam))


def test_members_of_a_seed_differ_in_lambda_alone(tmp_path):
    train.train(config(tmp_path, lam=(0.1, 1.0), seed=(3,), steps=1))
    line = Run.load(tmp_path / "run").metrics()[0]
    assert line["matching"][0] == line["matching"][1]
    assert line["regulariser"][0] == line["regulariser"][1]
    w = weights(config(tmp_path))["out.weight"]
    assert not torch.equal(w[0], w[1])


@pytest.mark.parametrize("method", ["qc", "qc_est"])
def test_the_regulariser_lowers_asymmetry(tmp_path, method):
    """After 60 steps with a huge weight, against U from the same start and data."""
    values = {}
    for name, lam in (("u", 0.0), (method, 100.0)):
        cfg = config(tmp_path, name, method=name, lam=(lam,), steps=60, batch=60, seed=(0,))
        cfg.task = "spirals"
        train.train(cfg)
        net = ToyNetwork(train.seed_generators([0], 0))
        net.load_state_dict(weights(cfg))
        x = 3 * torch.randn(1, 200, 2, generator=torch.Generator().manual_seed(0))
        score = networks.make_score(cfg, net)
        J = evaluation.jacobian(lambda at, f=score: f(at, torch.tensor(0.3)), x)
        values[name] = float(asymmetry(J).mean())
    assert values[method] < 0.2 * values["u"]


def test_average_of_the_weights_is_what_is_evaluated(tmp_path):
    cfg = config(tmp_path, method="u", task="digits", steps=3)
    train.train(cfg)
    state = Run.load(cfg.out).final()["net"]
    start = networks.DigitsNetwork(train.seed_generators([0, 1], 0)).state_dict()
    moved = (state["mlp.layers.0.weight"] - start["mlp.layers.0.weight"]).abs().max()
    assert 0 < moved < 3 * task.SETTINGS["digits"].lr  # three whole steps of Adam move further


@pytest.mark.parametrize(
    "wrong", [{"method": "cq"}, {"task": "moons"}, {"method": "c_act", "task": "digits"}]
)
def test_bad_flags_end_in_one_line(tmp_path, wrong):
    with pytest.raises(UserError, match="unknown"):
        train.train(config(tmp_path, **wrong))


# -- data -----------------------------------------------------------------------------------------


def test_toy_sets_have_their_moments(monkeypatch):
    rng = np.random.default_rng(0)
    x = task.eight_gaussians(rng, 40_000)
    radius = np.hypot(*x.T)
    assert (radius**2).mean() == pytest.approx(32 + 1, rel=0.01)  # 8^2 / 2 + 2 (1 / 2)
    angle = np.arctan2(x[:, 1], x[:, 0]) / (np.pi / 4)
    assert np.abs(angle - np.round(angle)).max() < 0.5 + 1e-9
    assert np.bincount(np.round(angle).astype(int) % 8).min() > 4700
    y = task.spirals(rng, 40_000)
    scale = 2.3 / 3
    assert np.hypot(*y.T).max() < scale * (3 * np.pi + 0.75)
    assert np.abs(y.mean(0)).max() < 0.06  # two arms, point-symmetric
    # with r = 3 pi sqrt(U) and noise U(0, 1/2)^2, integrals of r^3, r^2 cos r and r^2 sin r
    square = (3 * np.pi) ** 2 / 2 + 4 / (6 * np.pi) + 1 - 4 / (9 * np.pi**2) + 1 / 6
    assert ((np.hypot(*y.T) / scale) ** 2).mean() == pytest.approx(square, rel=0.01)


def test_splits_differ_and_stay_the_same():
    for name in task.TOY:
        train_set, test = task.toy_points(name, "train"), task.toy_points(name, "test")
        assert torch.equal(train_set, task.toy_points(name, "train"))
        assert not torch.equal(train_set[:50], test[:50])


def test_digits_are_dequantised_into_their_bins():
    data = task.Data("digits", torch.device("cpu"))
    x = data.batch(train.seed_generators([0, 1], 1), 50)
    assert x.shape == (2, 50, 64) and x.min() >= 0 and x.max() < 1
    integers = (x * 17).floor()
    known = {tuple(row) for row in data.points.tolist()}
    assert all(tuple(row) in known for row in integers.flatten(0, 1).int().tolist())
    assert not torch.equal(integers[0], integers[1])


# -- evaluation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["u", "qc", "c", "c_act"])
def test_evaluation_of_a_2d_model(tmp_path, method):
    cfg = config(tmp_path, method=method, lam=(0.1, 1.0))
    train.train(cfg)
    evaluate(EvalConfig(run=cfg.out))
    rows = pd.DataFrame(json.loads((cfg.out / "eval.json").read_text())["rows"])
    per_member = rows[rows.metric == "nll"]
    assert len(per_member) == (4 if method == "qc" else 2)
    assert np.isfinite(per_member.value.astype(float)).all()
    asym = rows[rows.metric == "asym"].value.astype(float)
    assert (asym < 1e-8).all() if method.startswith("c") else (asym > 1e-8).all()
    curve = rows[rows.metric == "asym_at"].iloc[0]
    assert curve.step == evaluation.midpoints(10)
    assert np.mean(curve.value) == pytest.approx(asym.iloc[0], rel=1e-6)
    assert set(rows[rows.metric == "mmd2"].sampler) == {"RK45", "PC", "RK45, matched prior"}


def test_digits_are_evaluated_in_bits(tmp_path, monkeypatch):
    full = evaluation.test_images
    monkeypatch.setattr(evaluation, "test_images", lambda t, rng, draws: full(t, rng, 1)[:12])
    cfg = config(tmp_path, task="digits", steps=2, seed=(0,))
    train.train(cfg)
    evaluate(EvalConfig(run=cfg.out))
    rows = json.loads((cfg.out / "eval.json").read_text())["rows"]
    values = {row["metric"]: row["value"] for row in rows}
    assert 3 < values["bits"] < 12  # untrained: the width of the noise, sigma_max = 5


class Exact(torch.nn.Module):
    """The score of N(0, I) smoothed, as a stack of one."""

    def forward(self, x, sigma):
        return -x / (1 + sigma**2)


def test_rows_of_an_exact_model(monkeypatch):
    """Data N(0, I): no asymmetry, no score error beyond the finite sample's, the known NLL."""
    monkeypatch.setattr(task, "N_TOY", 20_000)
    monkeypatch.setattr(task, "N_HELD_OUT", 200)
    monkeypatch.setattr(evaluation, "N_SAMPLES", 200)
    monkeypatch.setattr(task, "spirals", lambda rng, n: rng.standard_normal((n, 2)))
    oracle = evaluation.toy_oracle("spirals")
    found = {r["metric"]: r for r in evaluation.toy_field_rows("spirals", Exact(), oracle)}
    assert found["asym"]["value"] == 0 and found["nasym"]["value"] == 0
    assert found["score_error_at"]["value"][-1] < 1e-5 and found["score_error"]["value"] < 0.2
    x = task.toy_points("spirals", "test").double()
    q = x.square().sum(-1) / 1.01
    nll = q / 2 + math.log(2 * math.pi * 1.01) + math.log(9 / 10) + q / 18
    rows = {row["metric"]: row["value"] for row in evaluation.likelihood_rows("spirals", Exact())}
    assert rows["nll"] == pytest.approx(float(nll.mean()), abs=4e-3)
    matched = q / 2 + math.log(2 * math.pi * 1.01)  # the right prior: no bias
    assert rows["nll_matched"] == pytest.approx(float(matched.mean()), abs=8e-3)
    rows, samples = evaluation.sample_rows("spirals", Exact(), x.float())
    assert len(samples) == 200 and samples.std() < 1.2
    assert {r["sampler"]: r["value"] for r in rows if r["metric"] == "nfe"}["PC"] == 10


def test_autoencoder_and_gaussian_become_rows(tmp_path):
    seeds = (0, 1)
    out = tmp_path / "autoencoder"
    train_autoencoder.train(train_autoencoder.Config(seed=seeds, steps=501, out=out))
    count_steps.count(count_steps.Config(seed=seeds, out=tmp_path / "gaussian"))
    for name in ("autoencoder", "gaussian"):
        evaluate(EvalConfig(run=tmp_path / name))
    rows = json.loads((tmp_path / "autoencoder" / "eval.json").read_text())["rows"]
    loss = next(r for r in rows if r["metric"] == "loss" and r["seed"] == 1)
    assert loss["step"] == [0, 500, 501] and loss["value"][2] < loss["value"][0]
    rows = json.loads((tmp_path / "gaussian" / "eval.json").read_text())["rows"]
    steps = {r["epsilon"]: r["value"] for r in rows if r["metric"] == "steps" and r["seed"] == 0}
    assert list(steps.values()) == list(report.PUBLISHED_STEPS["rotational"])


# -- the exact score, and use ---------------------------------------------------------------------


@pytest.mark.parametrize("name", task.TOY)
def test_exact_densities_are_those_of_the_points(name):
    """They sum to one, agree with Parzen's estimate, and the score is their gradient."""
    density = exact.mixture(name)
    axis = torch.linspace(-13, 13, 66).double()
    grid = torch.cartesian_prod(axis, axis)
    p = density.log_density(grid, torch.tensor(0.5)).exp()
    assert p.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1.0, abs=1e-3)
    rng = np.random.default_rng(5)
    draw = {"8gaussians": task.eight_gaussians, "spirals": task.spirals}
    points = draw.get(name, task.checkerboard)(rng, 20_000)
    at = torch.from_numpy(points[:60]) + 0.3
    log_p, score = parzen(at, torch.from_numpy(points[100:]), 0.5)
    assert (density.log_density(at, torch.tensor(0.5)) - log_p).mean().abs() < 0.03
    mine = density.smoothed_score(at, torch.tensor(0.5))
    assert (mine - score).abs().mean() < 0.1
    step = torch.tensor([1e-5, 0.0]).double()
    rise = density.log_density(at + step, torch.tensor(0.5))
    rise = (rise - density.log_density(at - step, torch.tensor(0.5))) / 2e-5
    torch.testing.assert_close(mine[:, 0], rise, atol=1e-5, rtol=1e-5)


def test_the_authors_prior_keeps_an_exact_score_from_its_likelihood(tmp_path, monkeypatch):
    """What a perfect model gets: nearly a nat too much, unless the prior is as wide as the data."""
    monkeypatch.setattr(task, "N_HELD_OUT", 200)
    cfg = config(tmp_path, method="exact", seed=(0,))
    train.train(cfg)
    evaluate(EvalConfig(run=cfg.out))
    rows = json.loads((cfg.out / "eval.json").read_text())["rows"]
    value = {row["metric"]: row["value"] for row in rows if "sampler" not in row}
    assert value["nll"] - value["nll_truth"] > 0.7
    assert abs(value["nll_matched"] - value["nll_truth"]) < 0.15
    mmd = {row["sampler"]: row["value"] for row in rows if row["metric"] == "mmd2"}
    assert mmd["RK45, matched prior"] < mmd["RK45"]


def test_a_trained_score_is_used(tmp_path):
    cfg = config(tmp_path, method="qc", seed=(3, 5), lam=(0.1, 1.0))
    train.train(cfg)
    model = load(cfg.out, seed=5, lam=1.0)
    net = ToyNetwork(train.seed_generators([5], 0))
    net.load_state_dict({k: w[3:] for k, w in weights(cfg).items()})
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    expected = networks.make_score(cfg, net)(x[None], torch.tensor(0.5))[0]
    torch.testing.assert_close(model.score(x, 0.5), expected)
    assert model.sample(4).shape == (4, 2) and model.log_prob(x).shape == (7,)
    asym, share = model.asymmetry(x, 0.5)
    assert (asym >= 0).all() and ((share >= 0) & (share <= 1)).all()
    assert model.prior_std > 3
    with pytest.raises(UserError, match="no member"):
        load(cfg.out, seed=4)


# -- the paper's scale on stand-ins ---------------------------------------------------------------


@pytest.fixture
def paper_data(tmp_path, monkeypatch, narrow):
    """Ten images in each set's own format, and a narrow NCSN++ in diffusers'."""
    from diffusers import UNet2DModel

    root = tmp_path / "data"
    monkeypatch.setenv("PAPERS_DATA", str(root))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 3072), dtype=np.uint8)
    labels = np.zeros((10, 2), np.uint8)
    for folder, names, width in (
        (
            "cifar-10-batches-bin",
            [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"],
            1,
        ),
        ("cifar-100-binary", ["train.bin", "test.bin"], 2),
    ):
        (root / folder).mkdir(parents=True)
        for name in names:
            np.concatenate([labels[:, :width], images], axis=1).tofile(root / folder / name)
    (root / "imagenet32").mkdir()
    for name in ("train_data_batch_1", "val_data"):
        np.savez(root / "imagenet32" / f"{name}.npz", data=images)
    from scipy.io import savemat

    (root / "svhn").mkdir()
    for name in ("train", "test"):
        hwcn = images.reshape(10, 3, 32, 32).transpose(2, 3, 1, 0)
        savemat(root / "svhn" / f"{name}_32x32.mat", {"X": hwcn, "y": labels[:, :1]})
    torch.manual_seed(0)
    for name in ("cifar10", "svhn"):
        UNet2DModel(**{**networks.NCSNPP, **narrow}).save_pretrained(
            root / "qcsgm" / f"ncsnpp-{name}", safe_serialization=True
        )
    monkeypatch.setattr(networks, "NCSNPP", {**networks.NCSNPP, **narrow})
    return images


@pytest.mark.parametrize("where", task.IMAGES)
def test_image_sets_are_read(paper_data, where):
    found = task.image_bytes(where, "train")
    assert np.array_equal(found[:10], paper_data) and found.shape[1] == 3072
    batch = task.Data(where, torch.device("cpu")).batch(train.seed_generators([0], 1), 4)
    assert batch.shape == (1, 4, 3072) and batch.dtype == torch.float32
    assert batch.min() >= 0 and batch.max() < 1


@pytest.mark.parametrize("method", ["u", "c", "qc_est"])
@pytest.mark.usefixtures("one_step")
def test_image_training_from_pretrained_weights(paper_data, tmp_path, monkeypatch, method):
    cfg = config(tmp_path, method=method, task="cifar10", steps=2, batch=2, seed=(0,), lam=(1e-4,))
    train.train(cfg)
    begun = networks.NCSNpp(task.pretrained("cifar10")).state_dict()
    ended = weights(cfg)
    assert begun.keys() == ended.keys()
    moved = max(float((ended[k] - begun[k]).abs().max()) for k in begun)
    assert 0 < moved < 2e-4 / 5000 * 10  # the rate warms up over 5000 steps
    if method != "c":
        two = lambda t, rng, draws: torch.from_numpy(paper_data[:2] / 256).float()  # noqa: E731
        monkeypatch.setattr(evaluation, "test_images", two)
        short = evaluation.image_field_rows
        monkeypatch.setattr(
            evaluation, "image_field_rows", lambda *args: short(*args, n_levels=2, n=2)
        )
        evaluate(EvalConfig(run=cfg.out))
        rows = json.loads((cfg.out / "eval.json").read_text())["rows"]
        assert {"bits", "asym", "nasym"} <= {row["metric"] for row in rows}


def rewritten(folder, **changes):
    """Another configuration beside the same weights."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_network_that_is_evaluated_is_the_one_that_was_trained(paper_data, tmp_path):
    """The folder's settings need not be the defaults, and its weights do not tell them."""
    folder = task.pretrained("cifar10")
    rewritten(folder, center_input_sample=False)
    cfg = config(tmp_path, method="u", task="cifar10", steps=1, batch=2, seed=(0,))
    train.train(cfg)
    final = Run.load(cfg.out).final()
    assert final["settings"]["center_input_sample"] is False
    rebuilt = networks.make_network(cfg, [0], final["settings"])
    rebuilt.load_state_dict(final["net"])
    trained = networks.NCSNpp(folder)
    trained.load_state_dict(final["net"])
    default = networks.NCSNpp()
    default.load_state_dict(final["net"])  # no error: that was the fault
    x, sigma = torch.rand(1, 2, 3072), torch.tensor(0.5)
    with torch.no_grad():
        out = trained(x, sigma)
        assert torch.equal(rebuilt(x, sigma), out)
        assert (default(x, sigma) - out).norm() > 0.05 * out.norm()
    model = load(cfg.out)
    torch.testing.assert_close(model.score(x[0], 0.5), out[0])
    with pytest.raises(UserError, match="too large"):
        model.asymmetry(x[0], 0.5)


def test_another_network_in_the_folder_stops_a_run_that_was_begun(
    paper_data, tmp_path, monkeypatch
):
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "1")
    cfg = config(tmp_path, method="u", task="cifar10", steps=3, batch=2, seed=(0,))
    batch, calls = task.Data.batch, []

    def stop(self, generators, n):
        calls.append(n)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return batch(self, generators, n)

    monkeypatch.setattr(task.Data, "batch", stop)
    with pytest.raises(KeyboardInterrupt):
        train.train(cfg)
    rewritten(task.pretrained("cifar10"), center_input_sample=False)
    with pytest.raises(UserError, match="another NCSN"):
        train.train(cfg)


def test_the_folder_to_start_from_is_made_from_a_run_of_u(paper_data, tmp_path, monkeypatch):
    cfg = config(tmp_path, "u", method="u", task="svhn", steps=1, batch=2, seed=(0,))
    cfg.pretrained = False
    train.train(cfg)
    with pytest.raises(UserError, match="is there already"):
        pretrain.export(pretrain.ExportConfig(run=cfg.out))
    folder = pretrain.export(pretrain.ExportConfig(run=cfg.out, out=tmp_path / "made"))
    made, final = networks.NCSNpp(folder), Run.load(cfg.out).final()
    assert made.settings == final["settings"]
    assert all(torch.equal(value, final["net"][k]) for k, value in made.state_dict().items())
    toy = config(tmp_path, "toy", method="u")
    train.train(toy)
    with pytest.raises(UserError, match="no run of U on an image set"):
        pretrain.export(pretrain.ExportConfig(run=toy.out, out=tmp_path / "other"))


def test_an_empty_imagenet_folder_says_what_is_missing(paper_data, tmp_path, monkeypatch):
    (tmp_path / "data" / "imagenet32" / "val_data.npz").unlink()
    with pytest.raises(UserError, match="holds no val_data.npz"):
        task.image_bytes("imagenet32", "test")


def test_two_image_networks_at_once_are_refused(paper_data, tmp_path):
    with pytest.raises(UserError, match="one network at a time"):
        train.train(config(tmp_path, task="cifar10"))


def test_missing_weights_and_data_say_what_to_obtain(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)  # nothing is fetched here
    with pytest.raises(UserError, match="binary version"):
        train.train(config(tmp_path, task="cifar10", seed=(0,)))
    with pytest.raises(UserError, match="U-NCSN"):
        task.pretrained("svhn")


def test_ncsnpp_has_exact_products(narrow):
    """Within float32: diffusers takes the softmax of attention in it."""
    from papers.qcsgm.method import jacobian_products

    torch.manual_seed(0)
    net = networks.NCSNpp(settings={**networks.NCSNPP, **narrow, "sample_size": 4}).double()
    x, sigma = torch.rand(1, 2, 48).double(), torch.tensor(0.7).double()
    v = torch.sign(torch.randn_like(x))
    _, JTv, Jv = jacobian_products(lambda at: net(at, sigma), x, v)
    J = evaluation.jacobian(lambda at: net(at, sigma), x)
    torch.testing.assert_close(JTv, (J.mT @ v.unsqueeze(-1)).squeeze(-1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(Jv, (J @ v.unsqueeze(-1)).squeeze(-1), rtol=1e-4, atol=1e-6)


# -- bench ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["u", "qc", "qc_est"])
def test_both_sides_of_the_bench_train_the_same_networks(trained_alike, kind):
    ours, stack = bench.stacked_step(kind, 2)
    plain, nets = bench.plain_step(kind, stack, 2)
    start = [{k: v.clone() for k, v in net.state_dict().items()} for net in nets]
    for data in bench.batches(5, 2, 16):
        ours(*data)
        plain(*data)
    fresh = bench.PlainNetwork()
    for seed, net in enumerate(nets):
        bench.copy_seed(stack, fresh, seed)
        trained_alike(net.state_dict(), fresh.state_dict(), start[seed])
