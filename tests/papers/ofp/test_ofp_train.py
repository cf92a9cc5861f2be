"""Training with stacked seeds, resuming, baselines and evaluation."""

import dataclasses
import functools
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from common.errors import UserError
from common.run import Run
from papers.ofp import baselines, networks, train
from papers.ofp.config import Config, resolve
from papers.ofp.eval import ChunkPolicy, EvalConfig, evaluate, variants
from papers.ofp.method import OFPConfig, sample
from papers.ofp.methods import METHODS, diffusion, euler, jumps, regression
from papers.ofp.point_mass import PointMass

torch.set_num_threads(1)


def config(tmp_path, name="run", **changes):
    values = {"method": "ofp", "seed": (0, 1), "steps": 12, "batch": 32, "episodes": 3}
    return Config(**{**values, **changes, "out": tmp_path / name})


def teacher(cfg):
    return Run.load(cfg.out).final()["teacher"]


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("method", ["ofp", "meanflow", "ddpm"])
def test_resumed_run_is_the_undisturbed_one_bit_for_bit(tmp_path, monkeypatch, method):
    whole = config(tmp_path, "whole", method=method)
    train.train(whole)
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "5")
    broken = config(tmp_path, "broken", method=method)
    step = train.update_teacher

    def stop_at_8(*args, calls=[0]):  # noqa: B006
        calls[0] += 1
        if calls[0] == 8:
            raise KeyboardInterrupt
        step(*args)

    monkeypatch.setattr(train, "update_teacher", stop_at_8)
    with pytest.raises(KeyboardInterrupt):
        train.train(broken)
    monkeypatch.setattr(train, "update_teacher", step)
    train.train(broken)
    for name, value in teacher(whole).items():
        assert torch.equal(value, teacher(broken)[name]), name
    assert Run.load(whole.out).metrics() == Run.load(broken.out).metrics()


def test_same_seed_same_numbers_other_seed_other_numbers(tmp_path):
    for name, seed in (("a", (0,)), ("b", (0,)), ("c", (1,))):
        train.train(config(tmp_path, name, seed=seed))
    a, b, c = (teacher(config(tmp_path, n))["out.weight"] for n in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("method", ["ofp", "shortcut"])
def test_a_stacked_seed_is_what_it_would_be_alone(tmp_path, trained_alike, method):
    runs = [
        config(tmp_path, "both", method=method, seed=(4, 7)),
        config(tmp_path, "alone", method=method, seed=(7,)),
        config(tmp_path, "first", method=method, seed=(7,), steps=1),
    ]
    for cfg in runs:
        train.train(cfg)
    both, alone, first = map(teacher, runs)
    trained_alike(alone, {name: value[1:] for name, value in both.items()}, first)


def test_gradients_are_clipped_per_seed():
    p = [torch.nn.Parameter(torch.zeros(2, 3, 4)), torch.nn.Parameter(torch.zeros(2, 1, 4))]
    p[0].grad = torch.randn(2, 3, 4) * torch.tensor([10.0, 0.01]).view(2, 1, 1)
    p[1].grad = torch.zeros(2, 1, 4)
    small = p[0].grad[1].clone()
    reference = torch.nn.Parameter(torch.zeros(3, 4))
    reference.grad = p[0].grad[0].clone()
    expected = torch.nn.utils.clip_grad_norm_([reference], 1.0)
    norm = train.clip_per_seed(p, 1.0)
    torch.testing.assert_close(norm[0], expected)
    torch.testing.assert_close(p[0].grad[0], reference.grad)
    assert torch.equal(p[0].grad[1], small)


def test_learning_rate_is_a_cosine_after_the_hold():
    assert train.learning_rate(0.0, 1e-3, 0.0) == pytest.approx(1e-3)
    assert train.learning_rate(0.5, 1e-3, 0.0) == pytest.approx(5e-4)
    assert train.learning_rate(0.5, 1e-3, 0.5) == pytest.approx(1e-3)
    assert train.learning_rate(0.75, 1e-3, 0.5) == pytest.approx(5e-4)


def test_variants_change_what_they_say():
    assert resolve(Config("ofp-no-sc")).ofp == OFPConfig(lambda_sc=0.0)
    assert resolve(Config("ofp-rho1")).ofp.rho_fixed == 1.0
    half = resolve(Config("fm-half"))
    assert (half.method, half.steps) == ("fm-half", 5_000)
    assert resolve(Config("study-2x")).steps == 20_000
    assert resolve(Config("study-ema-99")).ema == 0.99
    default = dataclasses.asdict(resolve(Config("ofp")))
    for name, policy in METHODS.items():  # really a change, of what it says and of no more
        found = dataclasses.asdict(resolve(Config(name)))
        assert bool(policy.changes) == (found != {**default, "method": name})
    with pytest.raises(UserError, match="unknown method"):
        resolve(Config("opf"))


def test_judged_methods_train_equally_long():
    steps = {m: resolve(Config(m)).steps for m in METHODS if not METHODS[m].study}
    assert {m for m, n in steps.items() if n != 10_000} == {"fm-half"}


def test_windows_are_stacked_without_mixing_seeds():
    data = [(np.full((n, 4), n, np.float32), np.full((n, 8, 2), n, np.float32)) for n in (3, 5)]
    obs, actions, counts = train.stack_windows(data, torch.device("cpu"))
    assert obs.shape == (2, 5, 4) and actions.shape == (2, 5, 16)
    assert counts.flatten().tolist() == [3, 5]
    assert (obs[0, :3] == 3).all() and (obs[1] == 5).all()


# ------------------------------------------------------------------ networks


def both_networks():
    g = [torch.Generator().manual_seed(s) for s in (0, 1, 2)]
    encoder = networks.StateEncoder(6, 8, g)
    return [networks.MLP(16, 6, g), networks.FiLMMLP(encoder, 16, 8, g, width=32)]


@pytest.mark.parametrize("index", [0, 1])
def test_unstacked_network_is_the_seed_of_the_stack(index):
    net = both_networks()[index]
    z, obs = torch.randn(3, 5, 16), torch.randn(3, 5, 6)
    t, r = torch.rand(3, 5, 1), torch.rand(3, 5, 1)
    null = (torch.rand(3, 5, 1) < 0.5).float()
    out = net(z, t, r, net.encode(obs), null)
    single = networks.unstack(net, 1)
    one = single(z[1], t[1], r[1], single.encode(obs[1]), null[1])
    torch.testing.assert_close(one, out[1], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(out[0], out[1])


@pytest.mark.parametrize("index", [0, 1])
def test_null_condition_hides_the_observation(index):
    net = both_networks()[index]
    z, t = torch.randn(3, 5, 16), torch.rand(3, 5, 1)
    obs = torch.randn(2, 3, 5, 6)
    one = torch.ones_like(t)
    hidden = [net(z, t, t, net.encode(o), one) for o in obs]
    seen = [net(z, t, t, net.encode(o), 0 * one) for o in obs]
    torch.testing.assert_close(hidden[0], hidden[1])
    assert not torch.allclose(seen[0], seen[1])


# ------------------------------------------------------------------ baselines on a Gaussian

MU, STD = 0.3, 0.5


def variance(t):
    return (1 - t) ** 2 + t**2 * STD**2


class ExactMap(torch.nn.Module):
    """Average velocity of the flow from N(0, 1) to N(MU, STD^2), the diagonal included."""

    def encode(self, obs):
        return obs

    def forward(self, z, t, r, c, null):
        diagonal = MU + (t * STD**2 - (1 - t)) / variance(t) * (z - t * MU)
        phi = r * MU + torch.sqrt(variance(r) / variance(t)) * (z - t * MU)
        gap = torch.where(r - t < 1e-4, torch.ones_like(r), r - t)
        return torch.where(r - t < 1e-4, diagonal, (phi - z) / gap)


class Draws:
    def __init__(self, seed=0):
        self.g = torch.Generator().manual_seed(seed)

    def normal(self, *shape):
        return torch.randn(1, *shape, generator=self.g, dtype=torch.float64)

    def uniform(self, *shape):
        return torch.rand(1, *shape, generator=self.g, dtype=torch.float64)


class Spy(ExactMap):
    """The exact map with a scale parameter, so that a loss's gradient shows its bias."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.asked = []

    def forward(self, z, t, r, c, null):
        self.asked.append((t, r))
        far = (r - t > 1e-4).double()
        return super().forward(z, t, r, c, null) + far * (self.scale[0] + self.scale[1] * z)


def bias(loss_function, **kwargs):
    """Gradient of the mean loss at the exact map along a constant and a linear error."""
    n = 200_000
    g = torch.Generator().manual_seed(1)
    a = MU + STD * torch.randn(1, n, 1, generator=g, dtype=torch.float64)
    net, obs = Spy(), torch.zeros(1, n, 1, dtype=torch.float64)
    loss, _ = loss_function(net, ExactMap(), obs, a, Draws(), 0.0, **kwargs)
    (grad,) = torch.autograd.grad(loss.sum(), net.scale)
    return grad.abs().max().item()


def test_meanflow_is_unbiased_at_the_exact_map():
    """The exact average velocity solves the identity; the other sign of du/dt does not."""
    assert bias(baselines.meanflow_loss, power=0.0) < 0.01
    jvp = torch.func.jvp

    def wrong(*args):
        u, du = jvp(*args)
        return u, -du

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.func, "jvp", wrong)
        assert bias(baselines.meanflow_loss, power=0.0) > 0.05


def test_shortcut_is_unbiased_at_the_exact_map():
    """Two exact half steps are one exact step (up to the finest, which is an Euler step)."""
    assert bias(baselines.shortcut_loss) < 0.01


def test_shortcut_asks_for_dyadic_steps():
    net = Spy()
    baselines.shortcut_loss(
        net,
        ExactMap(),
        torch.zeros(1, 400, 1).double(),
        torch.randn(1, 400, 1).double(),
        Draws(),
        0.0,
    )
    t, r = (x[:, 300:] for x in net.asked[0])
    exponent = torch.log2(r - t)
    assert torch.equal(exponent, exponent.round()) and exponent.min() == -6 and exponent.max() == 0
    assert (r <= 1).all() and ((t / (r - t)).round() == t / (r - t)).all()


def moments(sampled):
    return sampled.mean().item(), sampled.std().item()


def test_euler_steps_meet_the_gaussian_and_one_step_is_its_mean():
    z = torch.randn(1, 20_000, 1, generator=torch.Generator().manual_seed(0)).double()
    many = baselines.euler_sample(ExactMap(), z, z, 100)
    assert moments(many) == pytest.approx((MU, STD), abs=0.02)
    one = baselines.euler_sample(ExactMap(), z, z, 1)
    assert moments(one)[1] < 1e-6


@pytest.mark.parametrize("nfe", [10, 100])
def test_diffusion_samplers_meet_the_gaussian(nfe):
    """With the exact noise predictor of N(0, .2^2) (the scheduler clips x0 to [-1, 1])."""
    alphas = baselines.alphas_cumprod()
    calls = []

    def eps(z, t, r, c, null):
        calls.append(t)
        alpha = alphas[(t * 100).round().long()]
        return (1 - alpha).sqrt() * z / (alpha * 0.04 + 1 - alpha)

    z = torch.randn(2, 8_000, 1, generator=torch.Generator().manual_seed(0))
    g = [torch.Generator().manual_seed(s) for s in (1, 2)]
    out = baselines.diffusion_sample(eps, z, z, nfe, g)
    assert len(calls) == nfe
    # ten steps of DDIM start at k = 90 (Diffusion Policy's spacing) and come out too narrow
    assert moments(out) == pytest.approx((0.0, 0.2), abs=0.02 if nfe == 100 else 0.055)


def test_diffusion_loss_noises_as_the_scheduler_does():
    asked = []

    class Net(ExactMap):
        def forward(self, z, t, r, c, null):
            asked.append((z, t))
            return torch.zeros_like(z)

    a = torch.randn(1, 64, 4)

    class Single(Draws):
        def normal(self, *shape):
            return super().normal(*shape).float()

        def uniform(self, *shape):
            return super().uniform(*shape).float()

    loss, _ = baselines.ddpm_loss(Net(), Net(), torch.zeros(1, 64, 1), a, Single(), 0.0)
    eps = Single().normal(64, 4)
    z, t = asked[0]
    k = (t[0, :, 0] * 100).round().long()
    expected = baselines.ddpm_scheduler().add_noise(a[0], eps[0], k)
    torch.testing.assert_close(z[0], expected)
    torch.testing.assert_close(loss, eps.square().mean(dim=(1, 2)))


def test_bc_ignores_the_noise():
    net = both_networks()[0]
    z, obs = torch.randn(2, 3, 5, 16), torch.randn(3, 5, 6)
    one, two = (baselines.bc_sample(net, x, obs) for x in z)
    assert torch.equal(one, two)
    loss, _ = baselines.bc_loss(net, net, obs, one, Draws(), 0.0)
    assert loss.abs().max() == 0


# ------------------------------------------------------------------ evaluation


class Fixed(torch.nn.Module):
    """Network whose one-step chunk is noise + a ramp."""

    def encode(self, obs):
        return obs

    def forward(self, z, t, r, c, null):
        return torch.arange(16.0).expand_as(z) - z


def test_gap_and_warm_start_of_the_policy():
    task = PointMass((0, 1))
    obs = np.zeros((2, 3, 4), np.float32)
    active = np.ones((2, 3), dtype=bool)
    cold = ChunkPolicy(Fixed(), task, jumps, nfe=1, t_w=0.0, device="cpu")
    cold.reset(3)
    first = cold(obs, active)
    np.testing.assert_allclose(first.reshape(2, 3, 16), np.tile(np.arange(16.0), (2, 3, 1)), 1e-5)
    assert np.isnan(cold.gap).all()
    active[0, 1:] = False  # finished episodes do not count
    cold(obs, active)
    # the last four actions of the ramp against the first four: 8 differences of 8
    np.testing.assert_allclose(cold.gap, math.sqrt(8 * 64), rtol=1e-5)
    assert cold.gap_count.tolist() == [1, 3]

    warm = ChunkPolicy(Fixed(), task, jumps, nfe=1, t_w=0.15, device="cpu")
    warm.reset(3)
    np.testing.assert_allclose(warm(obs, active), first, rtol=1e-5)  # no chunk to start from
    assert not np.allclose(warm(obs, active), first)
    warm.reset(3)
    np.testing.assert_allclose(warm(obs, active), first, rtol=1e-4)  # memory is cleared


# the others differ in numbers alone; test_every_stage_of_every_scale_on_stand_ins has them
@pytest.mark.parametrize(
    "method",
    ["ofp", "ofp-no-sc", "ofp-no-sg", "fm", "bc", "ddpm", "meanflow", "shortcut", "study-distil"],
)
def test_every_method_trains_and_is_evaluated(tmp_path, method):
    few = {"pairs": 200, "pair_calls": 2}
    cfg = config(tmp_path, method=method, steps=4, seed=(0, 1), nfe=(1, 2, 10), **few)
    train.train(cfg)
    evaluate(EvalConfig(run=cfg.out))

    rows = json.loads((cfg.out / "eval.json").read_text())["rows"]
    assert {row["seed"] for row in rows} == {0, 1} and {row["method"] for row in rows} == {method}
    radii = {row["radius"] for row in rows if row["metric"] == "success"}
    assert radii == {0.12, 0.15, 0.2}
    starts = {row["t_w"] for row in rows if row["metric"] == "gap"}
    assert starts == ({0.0, 0.15} if method.startswith("ofp") else {0.0})


def test_each_method_is_sampled_as_its_entry_says():
    """A flow policy that somebody adds is not sampled by OFP's jumps unless its entry says so."""
    net = both_networks()[0]
    z, obs = torch.randn(3, 5, 16), torch.randn(3, 5, 6)
    g = [torch.Generator().manual_seed(s) for s in range(3)]
    for name, expected in (
        ("ofp", lambda: sample(net, z, obs, 2)),
        ("fm", lambda: baselines.euler_sample(net, z, obs, 2)),
        ("fm-half", lambda: baselines.euler_sample(net, z, obs, 2)),
        ("bc", lambda: baselines.bc_sample(net, z, obs)),
        ("ddpm", lambda: baselines.diffusion_sample(net, z, obs, 2, g)),
        ("meanflow", lambda: sample(net, z, obs, 2)),
        ("shortcut", lambda: sample(net, z, obs, 2)),
    ):
        assert torch.equal(METHODS[name].sampler(net, z, obs, 2, 0.0, g), expected()), name
    warm = (f(net, z, obs, 2, 0.5, g) for f in (jumps, euler, diffusion, regression))
    moved = [not torch.equal(x, y) for x, y in zip(warm, cold(net, z, obs, g), strict=True)]
    assert moved == [True, True, False, False]
    with pytest.raises(UserError, match="unknown method"):
        METHODS["flow"]


def cold(net, z, obs, g):
    return [f(net, z, obs, 2, 0.0, g) for f in (jumps, euler, diffusion, regression)]


def test_latency_run_becomes_rows(tmp_path, monkeypatch):
    from papers.ofp import bench

    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(bench, "REPEATS", 1)
    bench.main(bench.Config(out=tmp_path / "latency"))
    evaluate(EvalConfig(run=tmp_path / "latency"))
    rows = pd.DataFrame(json.loads((tmp_path / "latency" / "eval.json").read_text())["rows"])
    assert len(rows) == 16 and (rows.value > 0).all()
    for task in ("point-mass", "metaworld"):
        assert ((rows.task == task) & (rows.method == "fm") & (rows.nfe == 100)).sum() == 1


def test_what_is_evaluated_where():
    ofp, fm = METHODS["ofp"], METHODS["fm"]
    assert variants(ofp, (), dear=False) == [
        *((n, 0.0) for n in (1, 2, 4)),
        *((n, 0.15) for n in (1, 2, 4)),
    ]
    assert variants(ofp, (), dear=True) == [(1, 0.0), (1, 0.15), (2, 0.15), (4, 0.15)]
    assert variants(fm, (), dear=True) == [(1, 0.0), (10, 0.0), (100, 0.0)]
    assert variants(fm, (1, 10), dear=True) == [(1, 0.0), (10, 0.0)]


def test_rows_carry_what_a_grid_varies(tmp_path):
    cfg = config(tmp_path, method="bc", steps=1, lr=3e-4, labels=("lr", "ema"))
    train.train(cfg)
    evaluate(EvalConfig(run=cfg.out))
    found = json.loads((cfg.out / "eval.json").read_text())
    assert all((row["lr"], row["ema"]) == (3e-4, 0.7) for row in found["rows"])
    assert found["extras"] == []


def test_a_diverged_network_fails_its_episodes():
    class Broken(Fixed):
        def forward(self, z, t, r, c, null):
            return torch.full_like(z, float("nan"))

    task = PointMass((0,))
    policy = ChunkPolicy(Broken(), task, jumps, nfe=1, t_w=0.0, device="cpu")
    assert not task.rollout(policy, range(3))["success"].any()
    assert task.start_chunks(policy, seed=0, n=10)[0]["on_mode"] == 0


def test_paper_scale_path_on_a_tiny_stand_in(tmp_path, monkeypatch):
    """The U-Net with the point-cloud encoder, in the paper's format but narrow and few.

    The other methods: test_every_stage_of_every_scale_on_stand_ins.
    """
    from papers.ofp import eval as evaluation
    from papers.ofp import networks_large

    class Tiny:
        name, encoder = "dp3-metaworld", "pointnet"
        action_dim, horizon, execute, obs_frames, points = 4, 4, 3, 2, 16
        obs_dim = 2 * (16 * 3 + 8)
        seeds = (0,)

        def windows(self, seed, split="train"):
            rng = np.random.default_rng(seed)
            obs = rng.standard_normal((10, self.obs_dim)).astype(np.float32)
            return obs, rng.uniform(-1, 1, (10, 4, 4)).astype(np.float32)

        def rollout(self, policy, episode_seeds, record=0):
            E = len(episode_seeds)
            policy.reset(E)
            for _ in range(2):
                obs = np.zeros((1, E, self.obs_dim), np.float32)
                assert policy(obs, np.ones((1, E), dtype=bool)).shape == (1, E, 4, 4)
            return {"success": np.ones((1, E)), "steps": np.ones((1, E))}

        def close(self):
            pass

    monkeypatch.setattr(train, "make_task", lambda name, seeds: Tiny())
    monkeypatch.setattr(evaluation, "make_task", lambda name, seeds: Tiny())
    narrow = functools.partial(networks_large.UNet, channels=(8, 16, 32))
    monkeypatch.setattr(networks_large, "UNet", narrow)
    cfg = config(tmp_path, task="dp3-metaworld", seed=(0,), steps=3, nfe=(1, 10))
    train.train(cfg)
    evaluate(EvalConfig(run=cfg.out))
    rows = json.loads((cfg.out / "eval.json").read_text())["rows"]
    assert all(row["value"] == 1 for row in rows if row["metric"] == "success")
